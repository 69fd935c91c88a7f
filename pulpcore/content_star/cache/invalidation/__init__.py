"""Changes of the database that drop cache entries."""
