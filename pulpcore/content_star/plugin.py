"""Public API for plugin writers; nothing else in `pulpcore.content_star` is public.

The names in `__all__`, with the documented methods and attributes of the classes, follow semantic
versioning with the version of `pulp-content-star`: they are compatible until the next major
version, and deprecated in a minor version before they are removed. Any minor version may add names,
methods with defaults, and keyword arguments with defaults. Until 1.0 the second number counts as
the major one. Names that begin with an underscore, other modules, and methods that
docs/plugins_writing.md does not name are not part of the API.
"""

from starlette.routing import Mount

from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.distributions.artifact import ArtifactApp
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.checkpoint import CheckpointApp
from pulpcore.content_star.distributions.publication import PublicationApp as PublicationApp
from pulpcore.content_star.distributions.publication import PullThroughApp, RepositoryVersionApp
from pulpcore.content_star.distributions.registry import serves
from pulpcore.content_star.distributions.routes import Route, executor_of
from pulpcore.content_star.plugin_host.context import (
    distribution_app,
    domain_of,
    mount,
    require_user,
    resolved_path_of,
    user_of,
)
from pulpcore.content_star.resolve.distribution import ResolvedPath

__all__ = [
    "ArtifactApp",
    "CheckpointApp",
    "DatabaseExecutor",
    "DistributionApp",
    "Mount",
    "PublicationApp",
    "PullThroughApp",
    "RepositoryVersionApp",
    "ResolvedPath",
    "Route",
    "distribution_app",
    "domain_of",
    "executor_of",
    "mount",
    "require_user",
    "resolved_path_of",
    "serves",
    "user_of",
]
