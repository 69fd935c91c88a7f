"""Directory listings as HTML and JSON."""
