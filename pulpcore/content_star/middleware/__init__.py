"""ASGI middleware around the content app."""
