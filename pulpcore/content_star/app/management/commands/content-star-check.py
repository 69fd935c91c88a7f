"""`pulpcore-manager content-star-check`: check an installation before it gets traffic."""

import json
import sys
from argparse import ArgumentParser
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError

from pulpcore.content_star.app.installation import check, levels


class Command(BaseCommand):
    """Prints one line a check: ok, note, or fault with the remedy. Exits with 1 for a fault."""

    help = "Checks versions, database, storage and settings before content-star gets traffic."
    requires_system_checks: ClassVar[list[str]] = []  # they are lines of the report

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--workers", type=int, default=2, help="Processes of uvicorn (2).")
        parser.add_argument("--json", action="store_true", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["workers"] < 1:
            raise CommandError("--workers must be at least 1")
        lines = []
        for line in check(options["workers"]):
            lines.append(line)
            if not options["json"]:
                self.stdout.write(f"{line.level:5}  {line.check}: {line.text}")
        counts = levels(lines)
        if options["json"]:
            found = {**counts, "lines": [line.as_json() for line in lines]}
            self.stdout.write(json.dumps(found, indent=2))
        if counts["fault"]:
            sys.exit(1)
