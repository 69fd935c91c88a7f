"""The `pulp-star` command: a whole Pulp on one machine, and folders of files served from it.

Its dependencies come with the extra `cli`; a server is installed without them. Nothing here imports
Django or Pulp's settings, so that the command starts quickly: processes that need them are started
as children.
"""

import sys
from importlib.util import find_spec

# Import names of the packages in the extra `cli` of pyproject.toml.
REQUIRED = ("click", "pulp_glue", "requests")


def main(prog_name: str | None = None) -> None:
    """Run the command line. Exits with code 1 where a package of the extra `cli` is missing."""
    if missing := [name for name in REQUIRED if find_spec(name) is None]:
        sys.exit(
            f"pulp-star needs {', '.join(missing)}, which the extra 'cli' installs: "
            "pip install 'pulp-content-star[cli]'"
        )
    from pulpcore.content_star.cli.commands import group

    group(prog_name=prog_name)
