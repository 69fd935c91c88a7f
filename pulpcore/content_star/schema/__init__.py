"""OpenAPI description of the content app, and its interactive documentation."""
