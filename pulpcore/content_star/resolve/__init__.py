"""Resolve the path of a URL to a distribution and a file."""
