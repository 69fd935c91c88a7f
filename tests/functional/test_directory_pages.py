"""Pages of directories equal a listing in Python, with any collation and query strategy."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pulpcore.app.models import Artifact, ContentArtifact, PublishedArtifact, RepositoryContent
from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.pagination import PageQuery
from pulpcore.content_star.resolve.content import ContentSource
from tests.support.collation import copies_of_paths, seeing_copies
from tests.support.orm import Orm


class Trees:
    """A version, and publications of it, whose paths tests replace.

    Of four content units, the first two are in the version; the third was removed before it, the
    fourth added after it.
    """

    ADDED = tuple(datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2))

    def __init__(self, orm: Orm) -> None:
        first, second, removed, later = (
            orm.content({orm.unique(): b"x" * size}) for size in (1, 2, 3, 4)
        )
        repository = orm.version({}).repository
        for units in (first, second, removed):
            with repository.new_version() as version:
                version.add_content(units)
        with repository.new_version() as version:
            version.remove_content(removed)
        with repository.new_version() as last:
            last.add_content(later)
        self.contents = [units.get().pk for units in (first, second, removed, later)]
        self.artifacts = [
            ContentArtifact.objects.get(content=content).artifact_id for content in self.contents
        ]
        self.sizes = [Artifact.objects.get(pk=artifact).size for artifact in self.artifacts]
        for content, added in zip(self.contents, self.ADDED, strict=False):
            members = RepositoryContent.objects.filter(repository=repository, content=content)
            members.update(pulp_created=added)
        self.publication = orm.publication({}, version)
        self.publication.pass_through = False
        self.pass_through = orm.publication({}, version)
        self.sources = {
            "version": ContentSource(None, version),
            "publication": ContentSource(self.publication, version),
            "pass-through": ContentSource(self.pass_through, version),
        }

    def fill(self, paths: dict[str, set[int]]) -> None:
        """Create the paths for content units by number; publish those of the first unit."""
        publications = (self.publication, self.pass_through)
        PublishedArtifact.objects.filter(publication__in=publications).delete()
        ContentArtifact.objects.filter(content__in=self.contents)._raw_delete("default")
        files = [
            ContentArtifact(
                content_id=self.contents[unit], artifact_id=self.artifacts[unit], relative_path=path
            )
            for path, units in paths.items()
            for unit in units
        ]
        ContentArtifact.objects.bulk_create(files)
        PublishedArtifact.objects.bulk_create(
            PublishedArtifact(
                publication=publication, content_artifact=file, relative_path=file.relative_path
            )
            for file in files
            for publication in publications
            if file.content_id == self.contents[0]
        )

    def listing(self, paths: dict[str, set[int]], kind: str, path: str) -> list[DirectoryEntry]:
        """Return the expected entries of a directory, computed in Python."""
        shown = {0} if kind == "publication" else {0, 1}
        listed: dict[str, DirectoryEntry] = {}
        for file, units in paths.items():
            if units & shown and file.startswith(path):
                segment, slash, _ = file[len(path) :].partition("/")
                modified = max(self.ADDED[unit] for unit in units & shown)
                size = None if slash else max(self.sizes[unit] for unit in units & shown)
                before = listed.get(segment + slash)
                if before is not None and before.modified is not None:
                    modified = max(modified, before.modified)
                listed[segment + slash] = DirectoryEntry(segment + slash, modified, size)
        return [listed[name] for name in sorted(listed)]


@pytest.fixture(scope="module")
def trees(module_orm) -> Trees:
    return Trees(module_orm)


@pytest.fixture(scope="module")
def schema(trees) -> Iterator[None]:
    with copies_of_paths():
        yield


@pytest.fixture
def core(instance) -> None:
    """The collation of the instance's database, which is C, and core's indexes."""


@pytest.fixture
def other(schema) -> Iterator[None]:
    """Another collation, without an index in code point order."""
    with seeing_copies():
        yield


@pytest.fixture
def indexed(schema) -> Iterator[None]:
    """Another collation, and our indexes."""
    with seeing_copies(indexed=True):
        yield


def pages_of(source: ContentSource, path: str, size: int) -> list[DirectoryEntry]:
    """Read a directory page by page."""
    listed: list[DirectoryEntry] = []
    page: Sequence[DirectoryEntry] | None = None
    while page is None or page:
        page = directory.entries(source, path, PageQuery(listed[-1].name if listed else None, size))
        listed += page
    return listed


DIRECTORIES = ["", "a/", "a/%_\\/"]
# Characters that sort next to the slash, are special in LIKE, or have another order elsewhere.
_character = st.sampled_from("aAbB-_%\\.!0 ~ßéÉ𝔘ｆ/") | st.characters(
    codec="utf-8", exclude_characters="\0"
)
_paths = st.builds(
    str.__add__, st.sampled_from(DIRECTORIES), st.text(_character, min_size=1, max_size=5)
)
_units = st.sets(st.integers(0, 3), min_size=1)
# Whether the version is sparse, and so read as a whole; ROWS and PATHS of one query.
STRATEGIES = {
    "all rows at once": (False, directory.ROWS, directory.PATHS),
    "one row at a time, so names by skip scans": (False, 1, directory.PATHS),
    "three rows out of as many paths": (False, 3, 3),
    "the whole version": (True, directory.ROWS, directory.PATHS),
}


@pytest.mark.parametrize("database", ["core", "other", "indexed"])
@hypothesis_settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(paths=st.dictionaries(_paths, _units, min_size=1, max_size=14), size=st.integers(2, 5))
@example(paths={path: {0} for path in ("a", "a/b", "a/c", "a-b", "a0", "A", "é/x")}, size=1)
@example(paths={"0": {0}, "c": {0}, "b": {0, 1}}, size=2)  # other publications' paths in between
@example(paths={"a/%_\\/x": {0}, "a/%_\\": {1}, "a/b_\\/x": {0, 1}, "a/%\x01": {2}}, size=1)
@example(paths={"//": {0, 1}, "/": {1}, "/a": {0}, "\U0010ffff/\U0010ffff": {0}, "b": {3}}, size=2)
@example(paths={"a/\x01": {0}, "a/\x01/\x01": {1}, "a/a\x01": {0}, "a/a": {0}, "a/a/": {0}}, size=1)
def test_pages_of_directory_equal_a_listing_in_python(request, trees, database, paths, size):
    request.getfixturevalue(database)
    trees.fill(paths)
    expected = {
        (kind, path): trees.listing(paths, kind, path)
        for kind in trees.sources
        for path in DIRECTORIES
    }
    for is_sparse, rows, paths_in_a_row in STRATEGIES.values():
        with (
            patch.object(directory, "_is_sparse", lambda source, answer=is_sparse: answer),
            patch.object(directory, "ROWS", rows),
            patch.object(directory, "PATHS", paths_in_a_row),
            patch.object(directory, "SPARSE_PART", 3),
            patch.object(directory, "entry_cache", directory.EntryCache(0)),
        ):
            for (kind, path), listing in expected.items():
                source = trees.sources[kind]
                assert pages_of(source, path, size) == listing, (kind, path)
                assert directory.entries(source, path) == listing, (kind, path)
