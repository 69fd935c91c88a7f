"""A legacy plugin: it has aiohttp routes and hooks only. Tests add it to PYTHONPATH."""

default_app_config = "pulp_bridged.app.BridgedAppConfig"
