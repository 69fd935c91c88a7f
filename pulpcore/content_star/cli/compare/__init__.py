"""`pulp-star compare`: send the same requests to two content apps, and report the differences."""
