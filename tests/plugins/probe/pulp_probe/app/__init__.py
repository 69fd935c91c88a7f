"""A plugin without models, whose routes return what they received."""

from pulpcore.plugin import PulpPluginAppConfig


class PulpProbePluginAppConfig(PulpPluginAppConfig):
    name = "pulp_probe.app"
    label = "probe"
    version = "1"
    python_package_name = "pulp-probe"
    domain_compatible = True
    content_implementations = frozenset({"star"})
    content_star = "pulp_probe.app.content_star"
