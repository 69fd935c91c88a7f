"""ASGI handler for Pulp's REST API, which runs Django's views in a bounded thread pool."""
