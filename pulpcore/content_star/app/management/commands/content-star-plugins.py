"""`pulpcore-manager content-star-plugins`: list the serving modes of installed plugins."""

import asyncio
import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from pulpcore.content_star.aiohttp_bridge.modules import import_modules
from pulpcore.content_star.plugin_host.discovery import as_json, plugins_for_aiohttp


class Command(BaseCommand):
    """Lists the installed plugins with serving mode (native, bridged, ...) and reason."""

    help = "Lists how the content of each installed plugin is served by content-star, and why."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(_import())
        found = as_json()
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
            return
        names = [f"{plugin['label']} {plugin['version']}" for plugin in found]
        width = max(map(len, names))
        for name, plugin in zip(names, found, strict=True):
            problem = f"; but {plugin['problem']}" if plugin["problem"] else ""
            problem += f"; until {plugin['ends_with']}" if plugin["ends_with"] else ""
            self.stdout.write(f"{name:{width}}  {plugin['served']:8}  {plugin['why']}{problem}")


async def _import() -> None:
    """Import aiohttp modules of plugins in an event loop, as the content app does."""
    import_modules(plugins_for_aiohttp())
