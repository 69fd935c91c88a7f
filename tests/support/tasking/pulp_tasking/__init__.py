"""A plugin whose views run immediate tasks. Tests add it to PYTHONPATH."""

default_app_config = "pulp_tasking.app.TaskingAppConfig"
