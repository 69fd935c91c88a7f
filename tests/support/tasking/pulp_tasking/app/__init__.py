"""The Django app. It has no models."""

from pulpcore.plugin import PulpPluginAppConfig

IMMEDIATE_TIMEOUT = 300
"""Seconds that an immediate task may take. The 5 of pulpcore are too few for a loaded machine."""


class TaskingAppConfig(PulpPluginAppConfig):
    name = "pulp_tasking.app"
    label = "tasking"
    version = "1.0"
    python_package_name = "pulp-tasking"
    domain_compatible = True

    def ready(self) -> None:
        super().ready()
        from pulpcore.tasking import tasks

        assert isinstance(tasks.IMMEDIATE_TIMEOUT, int)
        tasks.IMMEDIATE_TIMEOUT = IMMEDIATE_TIMEOUT
