default_app_config = "pulp_probe.app.PulpProbePluginAppConfig"
