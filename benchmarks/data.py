"""The data of a benchmark: repositories of many entries, made by SQL, and the same files as a tree.

All files of a repository are one file on the disk. Where there are several, their artifacts say
that they have digests of their own, since Pulp has one artifact for each digest. A file that is
alone has its own, without which it would never be kept in memory.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.apps import SMALL
from tests.support.instance import Instance
from tests.support.orm import Orm

LARGE = 1 << 30
"""Bytes of the large file."""

# File systems allow so many names of a file: ext4 65,000.
LINKS = 50_000

_CONTENT = """
WITH made AS MATERIALIZED (
    SELECT gen_random_uuid() AS content, gen_random_uuid() AS artifact,
           replace(%(name)s, '*', lpad(number::text, 6, '0')) AS path,
           coalesce(%(digest)s, encode(sha256(convert_to(%(name)s || number, 'UTF8')), 'hex'))
               AS digest
    FROM generate_series(0, %(count)s - 1) AS number
), artifacts AS (
    INSERT INTO core_artifact (pulp_id, pulp_created, timestamp_of_interest, pulp_domain_id,
                               file, size, sha256)
    SELECT artifact, now(), now(), %(domain)s, %(file)s, %(size)s, digest FROM made
), contents AS (
    INSERT INTO core_content (pulp_id, pulp_created, timestamp_of_interest, pulp_domain_id,
                              pulp_type, pulp_labels)
    SELECT content, now(), now(), %(domain)s, 'file.file', ''::hstore FROM made
), files AS (
    INSERT INTO file_filecontent (content_ptr_id, relative_path, digest, _pulp_domain_id)
    SELECT content, path, digest, %(domain)s FROM made
), content_artifacts AS (
    INSERT INTO core_contentartifact (pulp_id, pulp_created, relative_path, artifact_id, content_id)
    SELECT gen_random_uuid(), now(), path, artifact, content FROM made
), memberships AS (
    INSERT INTO core_repositorycontent (pulp_id, pulp_created, content_id, repository_id,
                                        version_added_id)
    SELECT gen_random_uuid(), now(), content, %(repository)s, %(version)s FROM made
)
UPDATE core_repositoryversion SET content_ids = (SELECT array_agg(content) FROM made)
WHERE pulp_id = %(version)s
"""


@dataclass(frozen=True)
class Repository:
    """A repository of files that are published passing through."""

    name: str
    """And the base path of its distributions; a number follows if there are several."""

    file: str
    """Name of its file, or of all of them: `*` stands for a number of six digits."""

    count: int = 1
    """Files in it."""

    places: int = 1
    """Distributions of it, so that there are more URLs than files."""

    size: int = SMALL
    """Bytes of each file."""

    is_guarded: bool = False
    """Whether it is for those only whom Pulp's own roles permit to."""

    def directory(self, place: int = 0) -> str:
        """Path of a distribution, below the root of a content app."""
        return f"{self.name}-{place}/" if self.places > 1 else f"{self.name}/"

    def path(self, number: int = 0) -> str:
        """Path of a file, below the root of a content app."""
        return self.directory() + self.file.replace("*", f"{number:06}")


ONE = Repository("small", "small.bin")
MEDIUM = Repository("medium", "medium.bin", size=10 << 20)
BIG = Repository("large", "large.bin", size=LARGE)
GUARDED = Repository("guarded", "guarded.bin", is_guarded=True)
PACKAGES_200 = Repository("packages200", "few-*.bin", 200, places=100)
PACKAGES_20K = Repository("packages20000", "many-*.bin", 20_000, places=2)
PACKAGES_200K = Repository("packages200000", "most-*.bin", 200_000)


def tree_of(instance: Instance) -> Path:
    """Return the directory with the same files at the same URLs, for servers of plain files."""
    return instance.home / "tree"


class Data:
    """Repositories in an instance, and the same in a tree of plain files."""

    def __init__(self, instance: Instance, repositories: Iterable[Repository]) -> None:
        client = instance.pulp()
        self.authorization: str = client.auth._auth_header
        """`Authorization` header for guarded content, whose password is checked."""
        self.tree = tree_of(instance)
        self._orm = Orm()
        self._guard = client.create("contentguards/core/rbac/", name=Orm.unique())["name"]
        for repository in repositories:
            file = _write(repository)
            self._make(repository, file)
            self._plant(repository, file)
        _analyze()

    def _make(self, repository: Repository, file: Path) -> None:
        from pulp_file.app.models import FileRepository

        from pulpcore.app.models import ContentGuard

        made = FileRepository(name=repository.name)
        made.save()
        version = made.new_version()
        _fill(version, repository, file)
        publication = self._orm.publication({}, version)
        guard = ContentGuard.objects.get(name=self._guard) if repository.is_guarded else None
        for place in range(repository.places):
            path = repository.directory(place).rstrip("/")
            self._orm.distribution(path, publication=publication, content_guard=guard)

    def _plant(self, repository: Repository, file: Path) -> None:
        root = self.tree / "pulp/content"
        first = root / repository.directory()
        first.mkdir(parents=True)
        for number in range(repository.count):
            if number and number % LINKS == 0:
                file = Path(shutil.copy(file, self.tree / f"{repository.name}-{number}"))
            (root / repository.path(number)).hardlink_to(file)
        for place in range(1, repository.places):
            (root / repository.directory(place)).symlink_to(first, target_is_directory=True)


def _write(repository: Repository) -> Path:
    """Write the file of a repository into Pulp's storage."""
    from django.core.files.storage import default_storage

    path = Path(default_storage.path(f"artifact/{repository.name}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    piece = os.urandom(min(repository.size, 1 << 20))
    with path.open("wb") as file:
        for _ in range(repository.size // len(piece)):
            file.write(piece)
    return path


def _fill(version: Any, repository: Repository, file: Path) -> None:
    """Make the content of a version, and complete it: Pulp's own way takes a minute for 200,000."""
    from django.db import connection

    values = {
        "name": repository.file,
        "count": repository.count,
        "domain": version.repository.pulp_domain_id,
        "file": f"artifact/{file.name}",
        "size": repository.size,
        "digest": _digest(file) if repository.count == 1 else None,
        "repository": version.repository_id,
        "version": version.pk,
    }
    with connection.cursor() as cursor:
        cursor.execute(_CONTENT, values)
    version.refresh_from_db()
    version.complete = True
    version.save()
    version._compute_counts()
    version.repository.next_version = version.number + 1
    version.repository.save()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _analyze() -> None:
    """Have PostgreSQL know how much there is, as it does in an instance that has been running."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
