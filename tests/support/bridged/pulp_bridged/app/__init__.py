"""The Django app. It has no models: its hooks are for distributions of pulp_file whose names
begin with `bridged-`."""

from pulpcore.plugin import PulpPluginAppConfig


class BridgedAppConfig(PulpPluginAppConfig):
    name = "pulp_bridged.app"
    label = "bridged"
    version = "1.0"
    python_package_name = "pulp-bridged"
    domain_compatible = True

    def ready(self):
        super().ready()
        from pulp_bridged.app.hooks import add_hooks

        add_hooks()
