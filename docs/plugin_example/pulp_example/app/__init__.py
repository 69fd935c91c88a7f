from pulpcore.plugin import PulpPluginAppConfig


class PulpExamplePluginAppConfig(PulpPluginAppConfig):
    name = "pulp_example.app"
    label = "example"
    version = "1.0.0"
    python_package_name = "pulp-example"
    domain_compatible = True

    # `pulpcore-content` serves our distributions by the hooks of their model, content-star by the
    # classes in this module. Operators may run either, or both during a migration.
    content_implementations = {"aiohttp", "star"}  # noqa: RUF012
    content_star = "pulp_example.app.content_star"
