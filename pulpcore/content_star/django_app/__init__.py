"""ASGI handler for Pulp's REST API in Django, with the behaviour of WSGI."""
