"""Files that Pulp knows and has not saved, made without a sync, with remotes of any settings."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from tests.support import remote_server as behave
from tests.support.instance import wait_until
from tests.support.orm import Orm
from tests.support.pulp import unique
from tests.support.remote_server import Upstream


@dataclass
class RemoteFile:
    """A file in a distribution of its own, and where it can be had."""

    data: bytes
    path: str
    """Below the root of the content app."""

    content_artifact: Any
    upstream: Upstream
    sources: list[str] = field(default_factory=list)
    """Below the root of the server, in the order in which they are asked."""

    @property
    def gets(self) -> list[int]:
        """How often each source was asked."""
        return [self.upstream.gets[source] for source in self.sources]

    @property
    def remote_artifacts(self) -> list[Any]:
        known = self.content_artifact.remoteartifact_set
        return [known.get(url__endswith=source) for source in self.sources]

    @property
    def artifact(self) -> Any:
        """What has been saved, or None."""
        self.content_artifact.refresh_from_db()
        return self.content_artifact.artifact

    def wait_until_saved(self) -> None:
        wait_until(lambda: self.artifact)

    def behave(self, behaviour: behave.Behaviour, source: int = 0) -> None:
        self.upstream.behaviours[self.sources[source]] = behaviour

    def add_source(self, url: str | None = None, **settings: Any) -> None:
        """Give it one remote more, on the upstream or at the root `url` that leads there."""
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
        """Change what is known of it from a source."""
        remote_artifact = self.remote_artifacts[source]
        type(remote_artifact).objects.filter(pk=remote_artifact.pk).update(**fields)


class RemoteFiles:
    """Makes such files, and removes them and what was saved of them."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._orm = Orm()
        self._made: list[tuple[RemoteFile, Any, Any]] = []

    def make(self, size: int = 5000, domain: Any = None, **settings: Any) -> RemoteFile:
        """A file of so many bytes; `settings` are those of its first remote."""
        from pulp_file.app.models import FileContent

        from pulpcore.app.contexts import with_domain
        from pulpcore.app.models import Content, ContentArtifact, Domain

        data = random.randbytes(size)
        domain = domain or Domain.objects.get(name="default")
        with with_domain(domain), transaction.atomic():  # so that it is settled once
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
                # Others may have the same data: there is one artifact without a byte.
                unused = Artifact.objects.filter(content_memberships=None)
                for artifact in unused.filter(sha256=digest, pulp_domain=domain):
                    artifact.delete()
        self._made.clear()


MakeRemoteFile = Callable[..., RemoteFile]
