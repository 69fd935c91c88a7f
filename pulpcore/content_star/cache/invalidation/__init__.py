"""Cache invalidation by changes of database rows."""
