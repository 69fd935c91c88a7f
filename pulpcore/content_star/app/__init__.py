"""Django app: the AppConfig by which Pulp loads the templates, settings and commands."""

from django.apps import apps
from django.db.models.signals import post_migrate

from pulpcore.content_star import __version__
from pulpcore.plugin import PulpPluginAppConfig


class ContentStarAppConfig(PulpPluginAppConfig):
    """Registers content-star as a Pulp plugin; its version is in `/pulp/api/v3/status/`."""

    name = "pulpcore.content_star.app"
    label = "content_star"
    version = __version__
    python_package_name = "pulp-content-star"
    domain_compatible = True

    def ready(self) -> None:
        """Register as a plugin, without an entry in `MODULE_PLUGIN_VERSIONS`.

        Upstream's `ready()` records the version by the first part of the module name, which is
        `pulpcore` here, as for core: each core task would then require content-star of its worker,
        instead of the version of core.
        """
        from pulpcore.content_star.upstream import MODULE_PLUGIN_VERSIONS  # needs models

        recorded = dict(MODULE_PLUGIN_VERSIONS)
        super().ready()
        MODULE_PLUGIN_VERSIONS.clear()
        MODULE_PLUGIN_VERSIONS.update(recorded)

        from pulpcore.content_star.cache.invalidation.triggers import install  # needs models

        # The signal is sent for each app, after the migrations of all apps.
        post_migrate.connect(install, sender=apps.get_app_config("core"))
