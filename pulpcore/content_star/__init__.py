"""Pulp's content app as a Starlette application mounted beside Django's ASGI handler.

Imported while Django's settings load, so this module must import nothing from Django or pulpcore.
"""

__version__ = "0.1.0"

default_app_config = "pulpcore.content_star.app.ContentStarAppConfig"
