"""Database access: the executor for blocking ORM work, and the SQL of the request path."""
