"""A folder as a served Pulp repository: content, repository version, publication, distribution."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

import click
from pulp_glue.common.context import PulpDistributionContext
from pulp_glue.common.exceptions import PulpEntityNotFound, PulpHTTPError
from pulp_glue.core.context import PulpArtifactContext
from pulp_glue.file.context import (
    PulpFileContentContext,
    PulpFileDistributionContext,
    PulpFilePublicationContext,
    PulpFileRemoteContext,
    PulpFileRepositoryContext,
)

from pulpcore.content_star.cli import manifest
from pulpcore.content_star.cli.folder import File, Folder, open_file
from pulpcore.content_star.cli.pulp import Pulp, Task

Entity = dict[str, Any]
OnFiles = Callable[[int], object]
"""Called with the number of files that have been transferred since the last call."""


@dataclass(frozen=True)
class Changes:
    """What has to happen to a repository to hold exactly a folder's files."""

    transfer: list[File]
    """New files and changed ones."""

    replaced: dict[str, str]
    """Href of the old content of each changed file, by its relative path."""

    removed: list[str]
    """Hrefs of the content of files that are gone."""

    def __bool__(self) -> bool:
        return bool(self.transfer or self.removed)

    def without(self, refused: Iterable[File]) -> "Changes":
        """The same changes, but leave these files as they are in the repository."""
        paths = {file.relative_path for file in refused}
        return Changes(
            [file for file in self.transfer if file.relative_path not in paths],
            {path: href for path, href in self.replaced.items() if path not in paths},
            self.removed,
        )

    def __str__(self) -> str:
        added = len(self.transfer) - len(self.replaced)
        return f"{added} added, {len(self.replaced)} replaced, {len(self.removed)} removed"


class Repository:
    """One file repository and the distribution that serves it."""

    def __init__(self, pulp: Pulp, name: str, base_path: str) -> None:
        self.pulp = pulp
        self.name = name
        self.base_path = base_path
        distribution = self._own_distribution()
        self.entity, created = self._find_or_create()
        try:
            # Before any file is sent, because Pulp may not like the base path.
            self.url = self._serve(distribution)
        except BaseException:
            if created:
                self._context().delete(non_blocking=True)
            raise

    def _own_distribution(self) -> Entity | None:
        """Our distribution if there is one; nobody else's may be in its way."""
        for entity in PulpDistributionContext(self.pulp.context).list_iterator(
            {"base_path": self.base_path}
        ):
            if entity["name"] != self.name:
                raise click.ClickException(
                    f"The base path {self.base_path} belongs to the distribution "
                    f"{entity['name']}. Choose another --base-path, or --name {entity['name']}."
                )
        try:
            found: Entity = PulpFileDistributionContext(
                self.pulp.context, entity={"name": self.name}
            ).entity
        except PulpEntityNotFound:
            return None
        if found["base_path"] != self.base_path:
            raise click.ClickException(
                f"{self.name} is served at the base path {found['base_path']} already. "
                "Choose another --name to serve the folder at a second one."
            )
        return found

    def _find_or_create(self) -> tuple[Entity, bool]:
        context = PulpFileRepositoryContext(self.pulp.context, entity={"name": self.name})
        try:
            return context.entity, False
        except PulpEntityNotFound:
            return context.create({"name": self.name}), True

    def _serve(self, distribution: Entity | None) -> str:
        """Make sure that the distribution serves our repository, and return its URL."""
        wanted = {"repository": self.entity["pulp_href"]}
        context = PulpFileDistributionContext(self.pulp.context)
        if distribution is None:
            self._run(context.create, {"name": self.name, "base_path": self.base_path, **wanted})
        elif distribution["repository"] != self.entity["pulp_href"]:
            context.pulp_href = distribution["pulp_href"]
            self._run(context.update, wanted)
        context.entity = {"name": self.name}
        return urljoin(f"{self.pulp.url}/", context.entity["base_url"])

    def compare(self, folder: Folder) -> Changes:
        """What is different between the folder and the repository's latest version."""
        held = {unit["relative_path"]: unit for unit in self._content(self.entity)}
        transfer = [
            file
            for path, file in folder.files.items()
            if path not in held or held[path]["sha256"] != file.sha256
        ]
        return Changes(
            transfer,
            {
                file.relative_path: held[file.relative_path]["pulp_href"]
                for file in transfer
                if file.relative_path in held
            },
            [
                unit["pulp_href"]
                for path, unit in held.items()
                if path not in folder.files and not folder.is_unknown(path)
            ],
        )

    def apply(self, changes: Changes, folder: Folder, sync: bool, on_files: OnFiles) -> Changes:
        """Transfer what has changed, make one new version of it, and return what it became.

        A file that Pulp refuses is skipped in the folder.
        """
        if sync:
            with self._synced(changes.transfer, on_files) as units:
                self._modify(units, changes)
            return changes
        units, refused = self._uploaded(changes.transfer, folder, on_files)
        changes = changes.without(refused)
        self._modify(units, changes)
        return changes

    def _modify(self, units: list[str], changes: Changes) -> None:
        if not changes:
            return
        gone = [*changes.replaced.values(), *changes.removed]
        self._run(
            self._context().call,
            "modify",
            parameters={PulpFileRepositoryContext.HREF: self.entity["pulp_href"]},
            body={"add_content_units": units, "remove_content_units": gone},
        )

    def publish(self, keeps_manifest_name: bool) -> None:
        """Make sure that the latest version is published."""
        context = self.pulp.context
        version = self._context().entity["latest_version_href"]
        publications = PulpFilePublicationContext(context)
        if not any(publications.list_iterator({"repository_version": version}, batch_size=1)):
            # A folder that has a PULP_MANIFEST of its own serves that one.
            body = {"repository_version": version, "manifest": "PULP_MANIFEST"}
            if keeps_manifest_name:
                body["manifest"] = ""
            self._run(publications.create, body)

    @contextmanager
    def _synced(self, files: list[File], on_files: OnFiles) -> Iterator[list[str]]:
        """Let a worker fetch files from us, and give their content's hrefs while it is kept.

        It goes by way of a repository of its own, so that only changed files are listed, and the
        real repository gets one new version whatever way the files came.
        """
        if not files:
            yield []
            return
        name = f"pulp-star add {self.name} {secrets.token_hex(4)}"
        with manifest.served(files) as url, self._temporary(name, url) as (repository, remote):
            counter = _Counter(len(files), on_files)
            self._run(
                repository.call,
                "sync",
                parameters={repository.HREF: repository.pulp_href},
                body={"remote": remote.pulp_href, "mirror": False},
                on_progress=counter.read,
            )
            counter.finish()
            yield [unit["pulp_href"] for unit in self._content(repository.show())]

    @contextmanager
    def _temporary(
        self, name: str, url: str
    ) -> Iterator[tuple[PulpFileRepositoryContext, PulpFileRemoteContext]]:
        repository = PulpFileRepositoryContext(self.pulp.context)
        remote = PulpFileRemoteContext(self.pulp.context)
        try:
            repository.create({"name": name, "retain_repo_versions": 1})
            remote.create({"name": name, "url": url, "policy": "immediate", "max_retries": 1})
            yield repository, remote
        finally:
            for context in (remote, repository):
                if context.tangible:
                    context.delete(non_blocking=True)

    def _uploaded(
        self, files: list[File], folder: Folder, on_files: OnFiles
    ) -> tuple[list[str], list[File]]:
        """Upload files one by one, and give their content's hrefs and the files Pulp refused.

        Pulp's API takes fewer names than its sync does: none with spaces, `?` or `#`.
        """
        units, refused = [], []
        for file in files:
            try:
                units.append(self._upload(file))
            except PulpHTTPError as error:
                if error.status_code != HTTPStatus.BAD_REQUEST or "relative_path" not in str(error):
                    raise
                refused.append(file)
                folder.skip(file.relative_path, "Pulp takes such a name only by sync")
            on_files(1)
        return units, refused

    def _upload(self, file: File) -> str:
        """Upload one file, as little of it as Pulp does not have."""
        content = PulpFileContentContext(self.pulp.context)
        known = {"relative_path": file.relative_path, "sha256": file.sha256}
        for unit in content.list_iterator(known, batch_size=1):
            return str(unit["pulp_href"])
        body: Entity = {"relative_path": file.relative_path}
        artifacts = PulpArtifactContext(self.pulp.context)
        for artifact in artifacts.list_iterator({"sha256": file.sha256}, batch_size=1):
            task = self._run(content.create, {**body, "artifact": artifact["pulp_href"]})
            return _created(task)
        with open_file(file.path) as stream:
            task = self._run(content.create, {**body, "file": stream})
        return _created(task)

    def _content(self, repository: Entity) -> Iterable[Entity]:
        parameters = {
            "repository_version": repository["latest_version_href"],
            "fields": ["pulp_href", "relative_path", "sha256"],
        }
        return PulpFileContentContext(self.pulp.context).list_iterator(parameters)

    def _context(self) -> PulpFileRepositoryContext:
        return PulpFileRepositoryContext(self.pulp.context, pulp_href=self.entity["pulp_href"])

    def _run(
        self,
        call: Callable[..., Task],
        *arguments: object,
        on_progress: Callable[[Task], object] = lambda task: None,
        **options: object,
    ) -> Task:
        """Make a call that starts a task, and wait for that in our own way."""
        return self.pulp.wait(call(*arguments, non_blocking=True, **options), on_progress)


class _Counter:
    """Turns the progress reports of a sync task into files that have been transferred."""

    def __init__(self, total: int, on_files: OnFiles) -> None:
        self.total = total
        self.seen = 0
        self.on_files = on_files

    def read(self, task: Task) -> None:
        for report in task["progress_reports"]:
            if report["code"] == "sync.downloading.artifacts":
                self._advance(report["done"])

    def finish(self) -> None:
        self._advance(self.total)  # what Pulp had already is never reported

    def _advance(self, done: int) -> None:
        self.on_files(done - self.seen)
        self.seen = done


def _created(task: Task) -> str:
    return str(task["created_resources"][0])
