"""Pulp's REST API: Django under ASGI, as under WSGI."""
