"""Distributions of any repository, with notes about its files."""

default_app_config = "pulp_example.app.PulpExamplePluginAppConfig"
