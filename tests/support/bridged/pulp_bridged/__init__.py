"""A plugin that knows upstream's content app alone. Tests put its folder on the path of servers."""

default_app_config = "pulp_bridged.app.BridgedAppConfig"
