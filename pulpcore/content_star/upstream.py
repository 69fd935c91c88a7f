"""The names of pulpcore in use that `pulpcore.plugin` does not export; imported from here alone.

They are not in pulpcore's plugin API, so any version may change them: all were read with pulpcore
3.115 to 3.123. Needs Django's app registry. What the bridge uses is in its `internals.py`.
"""

from pulpcore.app import mime_types  # Content-Type by name, as upstream sends it
from pulpcore.app.apps import MODULE_PLUGIN_VERSIONS  # must not get an entry of this app
from pulpcore.app.contexts import with_domain, with_user  # current domain and user of plugins' code
from pulpcore.app.loggers import deprecation_logger  # which operators configure for Pulp
from pulpcore.app.models import (
    AppStatus,  # rows of the heartbeat
    ArtifactDistribution,  # serves artifacts by id, and is not listed
    CompositeContentGuard,  # calls other guards
    DistributedPublication,  # superseded publications in their grace period
    OpenPGPDistribution,  # its hook fails without a repository
    RepositoryVersionContentDetails,  # counts of content on the index's page
)
from pulpcore.app.util import (
    get_worker_name,  # name of the process in the status and in metrics
    normalize_http_status,  # attribute of metrics
    retain_distributed_pub_enabled,  # whether superseded publications are served
)
from pulpcore.constants import (
    CHECKPOINT_TS_FORMAT,  # timestamps in URLs of checkpoints
    STORAGE_RESPONSE_MAP,  # parameters of signed URLs, by storage class
)

__all__ = [
    "CHECKPOINT_TS_FORMAT",
    "MODULE_PLUGIN_VERSIONS",
    "STORAGE_RESPONSE_MAP",
    "AppStatus",
    "ArtifactDistribution",
    "CompositeContentGuard",
    "DistributedPublication",
    "OpenPGPDistribution",
    "RepositoryVersionContentDetails",
    "deprecation_logger",
    "get_worker_name",
    "mime_types",
    "normalize_http_status",
    "retain_distributed_pub_enabled",
    "with_domain",
    "with_user",
]
