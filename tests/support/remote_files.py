"""On-demand files, created in the database without a sync, with remotes of any settings."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from tests.support import remote_server
from tests.support.instance import Instance, wait_until
from tests.support.orm import Orm
from tests.support.pulp import unique
from tests.support.remote_server import Upstream


@dataclass
class RemoteFile:
    """An on-demand file in a distribution of its own, and its remotes."""

    data: bytes
    path: str
    """Below the root of the content app."""

    content_artifact: Any
    upstream: Upstream
    sources: list[str] = field(default_factory=list)
    """Paths on the remote server, in the order in which they are tried."""

    @property
    def gets(self) -> list[int]:
        """The number of requests for each source."""
        return [self.upstream.gets[source] for source in self.sources]

    @property
    def remote_artifacts(self) -> list[Any]:
        known = self.content_artifact.remoteartifact_set
        return [known.get(url__endswith=source) for source in self.sources]

    @property
    def artifact(self) -> Any:
        """The saved artifact, or None."""
        self.content_artifact.refresh_from_db()
        return self.content_artifact.artifact

    def wait_until_saved(self) -> None:
        wait_until(lambda: self.artifact)

    def set_behaviour(self, behaviour: remote_server.Behaviour, source: int = 0) -> None:
        self.upstream.behaviours[self.sources[source]] = behaviour

    def add_source(self, url: str | None = None, **settings: Any) -> None:
        """Add a remote with the file, on the upstream or at `url`, a root that leads there."""
        from pulp_file.app.models import FileRemote

        from pulpcore.app.models import RemoteArtifact

        source = unique("file")
        self.upstream.files[source] = self.data
        # The order of equal ones is that of the database: alternate content sources come first.
        remote = FileRemote(
            name=unique("remote"),
            url=url or self.upstream.url,
            pulp_domain=self.content_artifact.content.pulp_domain,
            **{"policy": "on_demand", "max_retries": 1, **settings},
        )
        remote.save()
        RemoteArtifact(
            content_artifact=self.content_artifact,
            remote=remote,
            url=f"{remote.url}{source}",
            sha256=hashlib.sha256(self.data).hexdigest(),
            size=len(self.data),
            pulp_domain=remote.pulp_domain,
        ).save()
        self.sources.append(source)

    def set(self, source: int = 0, **fields: Any) -> None:
        """Change fields of the remote artifact of a source."""
        remote_artifact = self.remote_artifacts[source]
        type(remote_artifact).objects.filter(pk=remote_artifact.pk).update(**fields)


class RemoteFiles:
    """Creates on-demand files; `cleanup` deletes them and their artifacts."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._orm = Orm()
        self._made: list[tuple[RemoteFile, Any, Any]] = []

    def make(self, size: int = 5000, domain: Any = None, **settings: Any) -> RemoteFile:
        """Create a file of `size` bytes; `settings` are those of its first remote."""
        from pulp_file.app.models import FileContent

        from pulpcore.app.contexts import with_domain
        from pulpcore.app.models import Content, ContentArtifact, Domain

        data = random.randbytes(size)
        domain = domain or Domain.objects.get(name="default")
        with with_domain(domain), transaction.atomic():  # one invalidation for all writes
            digest = hashlib.sha256(data).hexdigest()
            unit = FileContent.objects.create(relative_path="file", digest=digest)
            known = ContentArtifact.objects.create(content=unit, relative_path="file")
            version = self._orm.version({})
            with version.repository.cast().new_version() as version:
                version.add_content(Content.objects.filter(pk=unit.pk))
            base = self._orm.distribution(from_publication=False, repository_version=version)
            file = RemoteFile(data, f"{base}/file", known, self.upstream)
            file.add_source(**settings)
        self._made.append((file, unit, domain))
        return file

    def cleanup(self) -> None:
        from pulpcore.app.contexts import with_domain
        from pulpcore.app.models import Artifact, Remote

        for file, unit, domain in reversed(self._made):
            with with_domain(domain):
                self._orm.cleanup()
                remotes = list(file.content_artifact.remoteartifact_set.values_list("remote"))
                type(unit).objects.filter(pk=unit.pk).delete()
                Remote.objects.filter(pk__in=[pk for (pk,) in remotes]).delete()
                digest = hashlib.sha256(file.data).hexdigest()
                # Other content may have the same artifact, such as the empty one.
                unused = Artifact.objects.filter(content_memberships=None)
                for artifact in unused.filter(sha256=digest, pulp_domain=domain):
                    artifact.delete()
        self._made.clear()


MakeRemoteFile = Callable[..., RemoteFile]


def spooled(instance: Instance) -> list[str]:
    """Return the names of the temporary files of downloads."""
    return sorted(path.name for path in instance.state.working_directory.glob("content-*"))
