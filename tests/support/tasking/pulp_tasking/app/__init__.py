"""The Django app. It has no models."""

from pulpcore.plugin import PulpPluginAppConfig


class TaskingAppConfig(PulpPluginAppConfig):
    name = "pulp_tasking.app"
    label = "tasking"
    version = "1.0"
    python_package_name = "pulp-tasking"
    domain_compatible = True
