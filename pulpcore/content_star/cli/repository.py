"""Upload of a folder to a Pulp file repository, with publication and distribution."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urljoin

import click
from pulp_glue.common.context import PulpDistributionContext
from pulp_glue.common.exceptions import PulpEntityNotFound
from pulp_glue.file.context import (
    PulpFileDistributionContext,
    PulpFilePublicationContext,
    PulpFileRepositoryContext,
)

from pulpcore.content_star.cli.folder import File, Folder
from pulpcore.content_star.cli.pulp import Pulp
from pulpcore.content_star.cli.transfer import (
    Entity,
    OnFiles,
    count,
    repository_content,
    synced,
    uploaded,
)


@dataclass(frozen=True)
class Changes:
    """Difference between a folder and a repository version."""

    transfer: list[File]
    """New files and changed ones."""

    replaced: dict[str, str]
    """Href of the old content of each changed file, by its relative path."""

    removed: list[str]
    """Hrefs of the content of deleted files."""

    def __bool__(self) -> bool:
        return bool(self.transfer or self.removed)

    def without(self, refused: Iterable[File]) -> "Changes":
        """Return the changes without those of refused files."""
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
    """A file repository and the distribution that serves it."""

    def __init__(self, pulp: Pulp, name: str, base_path: str) -> None:
        self.pulp = pulp
        self.name = name
        self.base_path = base_path
        distribution = self._own_distribution()
        self.entity, created = self._find_or_create()
        try:
            # Before the transfer of files, because Pulp may refuse the base path.
            self.url = self._serve(distribution)
        except BaseException:
            if created:
                self._context().delete(non_blocking=True)
            raise

    def _own_distribution(self) -> Entity | None:
        """Return the distribution of this name, None if there is none.

        Raises `click.ClickException` if its base path differs, or if another one has the base path.
        """
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
        """Create or update the distribution to serve the repository, and return its URL."""
        fields = {"repository": self.entity["pulp_href"]}
        context = PulpFileDistributionContext(self.pulp.context)
        if distribution is None:
            self.pulp.run(
                context.create, {"name": self.name, "base_path": self.base_path, **fields}
            )
        elif distribution["repository"] != self.entity["pulp_href"]:
            context.pulp_href = distribution["pulp_href"]
            self.pulp.run(context.update, fields)
        context.entity = {"name": self.name}
        return urljoin(f"{self.pulp.url}/", context.entity["base_url"])

    def compare(self, folder: Folder) -> Changes:
        """Return the changes from the repository's latest version to the folder."""
        version = self.entity["latest_version_href"]
        old = {unit["relative_path"]: unit for unit in repository_content(self.pulp, version)}
        transfer = [
            file
            for path, file in folder.files.items()
            if path not in old or old[path]["sha256"] != file.sha256
        ]
        return Changes(
            transfer,
            {
                file.relative_path: old[file.relative_path]["pulp_href"]
                for file in transfer
                if file.relative_path in old
            },
            [
                unit["pulp_href"]
                for path, unit in old.items()
                if path not in folder.files and not folder.is_unknown(path)
            ],
        )

    def apply(self, changes: Changes, folder: Folder, sync: bool, on_files: OnFiles) -> Changes:
        """Transfer changed files, create one repository version, and return the applied changes.

        Files that Pulp refuses are added to the skipped ones of the folder.
        """
        if sync:
            with synced(self.pulp, self.name, changes.transfer, on_files) as units:
                self._modify(units, changes)
            return changes
        units, refused = uploaded(self.pulp, changes.transfer, folder, on_files)
        changes = changes.without(refused)
        self._modify(units, changes)
        return changes

    def _modify(self, units: list[str], changes: Changes) -> None:
        if not changes:
            return
        removed = [*changes.replaced.values(), *changes.removed]
        self.pulp.run(
            self._context().call,
            "modify",
            parameters={PulpFileRepositoryContext.HREF: self.entity["pulp_href"]},
            body={"add_content_units": units, "remove_content_units": removed},
        )

    def publish(
        self, has_own_manifest: bool, on_progress: Callable[[], object] = lambda: None
    ) -> None:
        """Publish the latest version if it has no publication."""
        context = self.pulp.context
        version = self._context().entity["latest_version_href"]
        publications = PulpFilePublicationContext(context)
        if not any(publications.list_iterator({"repository_version": version}, batch_size=1)):
            # The PULP_MANIFEST of the folder takes precedence over a generated one.
            body = {"repository_version": version, "manifest": "PULP_MANIFEST"}
            if has_own_manifest:
                body["manifest"] = ""
            self.pulp.run(publications.create, body, on_progress=lambda task: on_progress())

    def _context(self) -> PulpFileRepositoryContext:
        return PulpFileRepositoryContext(self.pulp.context, pulp_href=self.entity["pulp_href"])


@dataclass(frozen=True)
class Distribution:
    """A file distribution and the repository version that it serves."""

    entity: Entity
    url: str
    version: str | None
    """Href of the latest version of its repository, if it serves one."""

    files: int | None
    """Number of files in that version."""

    @property
    def name(self) -> str:
        return str(self.entity["name"])

    @property
    def base_path(self) -> str:
        return str(self.entity["base_path"])


def distributions(pulp: Pulp, **query: str) -> Iterator[Distribution]:
    """Yield the file distributions that match a query of Pulp's API."""
    context = PulpFileDistributionContext(pulp.context)
    for entity in context.list_iterator(query):
        version = entity["repository_version"] or _latest_version(pulp, entity["repository"])
        url = urljoin(f"{pulp.url}/", entity["base_url"])
        yield Distribution(entity, url, version, count(pulp, version) if version else None)


def find_distribution(pulp: Pulp, name: str) -> Distribution:
    """Return the file distribution with a name, or else with a base path.

    Raises:
        click.ClickException: there is none.
    """
    for query in ({"name": name}, {"base_path": name.strip("/")}):
        for found in distributions(pulp, **query):
            return found
    raise click.ClickException(f"There is no distribution {name}. `pulp-star list` lists them.")


def check_removable(pulp: Pulp, distribution: Distribution) -> None:
    """Check that a distribution is that of a `Repository`, which no other one serves.

    Raises:
        click.ClickException: it serves no repository of its name, or another one serves it as well.
    """
    name, href = distribution.name, distribution.entity["repository"]
    if href is None or _repository(pulp, href).entity["name"] != name:
        raise click.ClickException(
            f"{name} does not serve a repository of its own name, so `pulp-star add` has not made "
            "it. Remove it with Pulp's API or pulp-cli."
        )
    for other in PulpDistributionContext(pulp.context).list_iterator({"repository": href}):
        if other["name"] != name:
            raise click.ClickException(
                f"The repository {name} is served by the distribution {other['name']} as well. "
                "Remove that first."
            )


def remove(pulp: Pulp, distribution: Distribution) -> None:
    """Delete a distribution, and its repository with all versions and publications."""
    entity = distribution.entity
    pulp.run(PulpFileDistributionContext(pulp.context, pulp_href=entity["pulp_href"]).delete)
    pulp.run(_repository(pulp, entity["repository"]).delete)


def _repository(pulp: Pulp, href: str) -> PulpFileRepositoryContext:
    return PulpFileRepositoryContext(pulp.context, pulp_href=href)


def _latest_version(pulp: Pulp, repository: str | None) -> str | None:
    return str(_repository(pulp, repository).entity["latest_version_href"]) if repository else None
