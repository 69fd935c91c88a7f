"""The Django side: the AppConfig that makes Pulp load our templates, settings and commands."""

from django.apps import apps
from django.db.models.signals import post_migrate

from pulpcore.app.apps import MODULE_PLUGIN_VERSIONS, PulpPluginAppConfig
from pulpcore.content_star import __version__


class ContentStarAppConfig(PulpPluginAppConfig):
    """Registers content-star with Pulp: its version shows in `/pulp/api/v3/status/`."""

    name = "pulpcore.content_star.app"
    label = "content_star"
    version = __version__
    python_package_name = "pulp-content-star"
    domain_compatible = True

    def ready(self) -> None:
        """Register as a plugin without becoming a version that tasks require of workers.

        Upstream's `ready()` records the version under the first part of the module name. Ours is
        `pulpcore`, core's own: recorded, it would make every core task demand content-star of the
        worker that runs it, instead of the core version it was written for.
        """
        recorded = dict(MODULE_PLUGIN_VERSIONS)
        super().ready()
        MODULE_PLUGIN_VERSIONS.clear()
        MODULE_PLUGIN_VERSIONS.update(recorded)

        from pulpcore.content_star.cache.invalidation.triggers import install  # needs models

        # Any sender would do: the signal comes when all migrations of all apps are through.
        post_migrate.connect(install, sender=apps.get_app_config("core"))
