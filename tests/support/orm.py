"""Django in the test process, on the database of the session's instance.

It creates objects that the REST API refuses (odd names, published pages) or makes slowly (many
rows), and lets tests inspect queries.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from pulpcore.content_star.cli.state import Instance as CliInstance
from pulpcore.content_star.cli.state import State
from tests.support.pulp import unique
from tests.support.template import copy_template, share_secrets


def configure() -> State:
    """Set Django up on a new state directory; an instance starts its database later."""
    state = State(Path(tempfile.mkdtemp(prefix="star-")) / "home")
    has_template = copy_template(state.home)
    state.create()
    if not has_template:
        share_secrets(state)
    os.environ.update(state.environ(CliInstance("127.0.0.1", 0, "/nonexistent")))

    import django

    django.setup()

    from pulpcore.content_star.aiohttp_bridge import internals
    from tests.support.invalidation import watch

    internals.install()  # as the application does; many tests use parts of it
    watch()
    return state


def connect(address: CliInstance) -> None:
    """Point Django's connection at the database of a running instance."""
    from django.db import connection

    connection.settings_dict["HOST"] = address.socket_dir


def disconnect() -> None:
    """Close the connections to the database before its server stops."""
    from django.db import connection

    from tests.support import invalidation

    invalidation.invalidate()
    connection.close()


class Orm:
    """Creates Pulp's objects as its tasks do; `cleanup` deletes them, newest first."""

    def __init__(self) -> None:
        self._created: list[Any] = []

    def cleanup(self) -> None:
        for created in reversed(self._created):
            with suppress(type(created).DoesNotExist):
                created.refresh_from_db()
                created.delete()
        self._created.clear()

    @staticmethod
    def unique() -> str:
        """Return a name that no other test uses."""
        return unique("orm")

    def _save(self, instance: Any) -> Any:
        instance.save()
        self._created.append(instance)
        return instance

    def domain(self, **storage_settings: Any) -> Any:
        """Create a domain with its own storage, for use in `with_domain`.

        Clean up within it: objects of a domain are deleted in the domain's storage.
        """
        from pulpcore.app.models import Domain

        domain = Domain(
            name=unique("domain"),
            storage_class="pulpcore.app.models.storage.FileSystem",
            storage_settings=storage_settings,
        )
        domain.save()
        return domain

    def version(self, files: dict[str, bytes]) -> Any:
        """Create a repository and return its version that holds `files`."""
        from pulp_file.app.models import FileRepository

        repository = self._save(FileRepository(name=unique("repository")))
        if files:
            with repository.new_version() as version:
                version.add_content(self.content(files))
        return repository.latest_version()

    def content(self, files: dict[str, bytes]) -> Any:
        """Create a content unit for each file, with any path, and return a query of them."""
        from django.db import transaction

        with transaction.atomic():  # a commit for each row would take longer than the rows
            return self._content(files)

    @staticmethod
    def _content(files: dict[str, bytes]) -> Any:
        from pulp_file.app.models import FileContent

        from pulpcore.app.models import Content, ContentArtifact
        from pulpcore.app.util import get_domain

        units = []
        for path, data in files.items():
            unit, created = FileContent.objects.get_or_create(
                relative_path=path,
                digest=hashlib.sha256(data).hexdigest(),
                _pulp_domain=get_domain(),
            )
            if created:
                ContentArtifact(content=unit, artifact=artifact(data), relative_path=path).save()
            units.append(unit.pk)
        return Content.objects.filter(pk__in=units)

    def publication(self, files: dict[str, bytes], version: Any = None) -> Any:
        """Publish `files` as metadata of an empty version, or of `version` with pass-through."""
        from pulp_file.app.models import FilePublication

        from pulpcore.app.models import PublishedMetadata

        publication = self._save(
            FilePublication(
                repository_version=version or self.version({}), pass_through=version is not None
            )
        )
        for path, data in files.items():
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.seek(0)
                PublishedMetadata.create_from_file(
                    file=_named(file), publication=publication, relative_path=path
                )
        publication.complete = True
        publication.save()
        return publication

    def guard(self, model: Any, **fields: Any) -> Any:
        """Create a content guard."""
        return self._save(model(name=unique("guard"), **fields))

    def distribution(
        self, base_path: str | None = None, from_publication: bool = True, **fields: Any
    ) -> str:
        """Create a distribution, of a model that needs a publication or not; return its base path.

        The base path need not pass the REST API's validation.
        """
        from pulp_file.app.models import FileDistribution

        from pulpcore.app.models import OpenPGPDistribution

        model = FileDistribution if from_publication else OpenPGPDistribution
        base_path = base_path or unique("base")
        self._save(model(name=unique("dist"), base_path=base_path, **fields))
        return base_path


def artifact(data: bytes) -> Any:
    """Return the artifact of `data` in the current domain; save it if there is none."""
    from pulpcore.app.models import Artifact
    from pulpcore.app.util import get_domain

    digest = hashlib.sha256(data).hexdigest()
    if known := Artifact.objects.filter(sha256=digest, pulp_domain=get_domain()).first():
        return known
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        new = Artifact.init_and_validate(file.name)
        new.save()
    return new


class Site:
    """A domain with its own storage, a repository with `files`, and its distribution."""

    base_path = "base"

    def __init__(self, storage_class: str, settings: dict[str, Any], files: dict[str, bytes]):
        from pulpcore.app.contexts import with_domain
        from pulpcore.app.models import Domain

        self.orm = Orm()
        self.domain = Domain(
            name=unique("domain"), storage_class=storage_class, storage_settings=settings
        )
        self.domain.save()
        with with_domain(self.domain):
            version = self.orm.version(files)
            self.orm.distribution(
                self.base_path, from_publication=False, repository_version=version
            )

    def set(self, **fields: Any) -> None:
        """Change fields of the domain as the REST API does, except the time of change."""
        type(self.domain).objects.filter(pk=self.domain.pk).update(**fields)

    def artifact(self, path: str) -> Any:
        """Return the artifact of the file at `path`."""
        from pulpcore.app.models import ContentArtifact

        return ContentArtifact.objects.get(
            content__pulp_domain=self.domain, relative_path=path
        ).artifact

    def remove(self) -> None:
        """Remove the domain and its objects in the database, but not those in its storage."""
        from pulpcore.app.contexts import with_domain
        from pulpcore.app.models import Artifact, Content

        with with_domain(self.domain):
            self.orm.cleanup()
            Content.objects.filter(pulp_domain=self.domain).delete()
            Artifact.objects.filter(pulp_domain=self.domain).delete()
            type(self.domain).objects.filter(pk=self.domain.pk).delete()


def _named(file: Any) -> Any:
    from django.core.files import File

    return File(file.file, name=Path(file.name).name)
