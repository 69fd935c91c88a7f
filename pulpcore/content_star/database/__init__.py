"""Blocking ORM work, and the SQL of the request path."""
