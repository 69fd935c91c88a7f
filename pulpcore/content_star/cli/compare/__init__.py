"""`pulp-star compare`: send the same requests to two content apps, and report the differences."""

DEFAULT_PREFIX = "/pulp/content/"
"""Path of the content app below a URL without one."""
