"""A plugin whose views run immediate tasks. Tests put its folder on the path of servers."""

default_app_config = "pulp_tasking.app.TaskingAppConfig"
