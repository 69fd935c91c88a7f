"""The response cache under random sequences of changes: hits equal uncached responses.

Hypothesis generates the sequences. Changes are made as Pulp's tasks make them, by
`QuerySet.update`, which sends no signals, and in SQL; each returns after invalidation.
"""

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pulpcore.app.models import (
    ContentArtifact,
    Distribution,
    Domain,
    HeaderContentGuard,
    Publication,
    RepositoryVersion,
)
from tests.support.asgi import get
from tests.support.orm import Orm

pytestmark = pytest.mark.slow

PATHS = ("a", "b", "sub/a", "sub", "sub/")
DATA = (b"one", b"two", b"three")
PASS = {"x-pass": "eWVz"}  # "yes"

# Headers that depend on the file and its distribution.
HEADERS = ("etag", "content-length", "location", "content-disposition", "surrogate-key")


class CacheMachine(RuleBasedStateMachine):
    """One repository, and a distribution that serves it, its versions and publications in turn."""

    app = None
    """The content app in this process, without a cache."""

    content = None
    """A client of the server, with a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.orm = Orm()
        version = self.orm.version({"a": DATA[0], "sub/a": DATA[1]})
        self.repository = version.repository.cast()
        self.publications = [self.orm.publication({"b": DATA[2]}, version)]
        self.base = self.orm.distribution(repository=self.repository)
        self.guard = self.orm.guard(HeaderContentGuard, header_name="x-pass", header_value="yes")

    def teardown(self) -> None:
        Distribution.objects.filter(base_path=self.base).delete()
        Publication.objects.filter(repository_version__repository=self.repository).delete()
        self.orm.cleanup()

    def update(self, **fields: object) -> None:
        Distribution.objects.filter(base_path=self.base).update(**fields)

    @rule(path=st.sampled_from(["a", "b", "sub/a"]), data=st.sampled_from(DATA))
    def new_version(self, path: str, data: bytes) -> None:
        with self.repository.new_version() as version:
            version.remove_content(version.content.filter(contentartifact__relative_path=path))
            version.add_content(self.orm.content({path: data}))

    @rule(data=st.sampled_from(DATA))
    def publish(self, data: bytes) -> None:
        version = self.repository.latest_version()
        self.publications.append(self.orm.publication({"b": data}, version))

    @rule()
    def delete_latest_version(self) -> None:
        version = self.repository.latest_version()
        if version.number > 0:
            # A version that is distributed is protected.
            self.point("nothing")
            version.delete()
            self.point("repository")

    @rule()
    def delete_latest_publication(self) -> None:
        latest = Publication.objects.filter(repository_version__repository=self.repository)
        if publication := latest.order_by("pulp_created").last():
            publication.delete()

    @rule(by=st.sampled_from(["repository", "repository_version", "publication", "nothing"]))
    def point_elsewhere(self, by: str) -> None:
        self.point(by)

    def point(self, by: str) -> None:
        targets = {
            "repository": self.repository,
            "repository_version": self.repository.latest_version(),
            "publication": Publication.objects.filter(
                repository_version__repository=self.repository
            ).first(),
        }
        self.update(**{name: target if name == by else None for name, target in targets.items()})

    @rule(on=st.booleans())
    def guarded(self, on: bool) -> None:
        self.update(content_guard=self.guard if on else None)

    @rule(value=st.sampled_from(["yes", "no"]))
    def change_guard(self, value: str) -> None:
        HeaderContentGuard.objects.filter(pk=self.guard.pk).update(header_value=value)

    @rule()
    def move(self) -> None:
        old, self.base = self.base, self.orm.unique()
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE core_distribution SET base_path = %s WHERE base_path = %s", [self.base, old]
            )
        self.check(old, "a")

    @rule()
    def recreate(self) -> None:
        old = Distribution.objects.get(base_path=self.base)
        fields = {
            name: getattr(old, name)
            for name in ("repository", "repository_version", "publication", "content_guard")
        }
        old.cast().delete()
        self.check(self.base, "a")
        self.orm.distribution(self.base, **fields)

    @rule(path=st.sampled_from(["a", "sub/a"]))
    def reclaim(self, path: str) -> None:
        """Remove the artifact as the task that reclaims disk space, and save it again."""
        version = self.repository.latest_version()
        file = ContentArtifact.objects.filter(
            content__in=version.content, relative_path=path, artifact__isnull=False
        ).first()
        if file is None:
            return
        artifact = file.artifact
        self.check(self.base, path)
        ContentArtifact.objects.filter(pk=file.pk).update(artifact=None)
        self.check(self.base, path)
        ContentArtifact.objects.filter(pk=file.pk).update(artifact=artifact)

    @rule(text=st.sampled_from(["one", "two"]))
    def change_domain(self, text: str) -> None:
        Domain.objects.filter(name="default").update(description=text)

    @rule(complete=st.booleans())
    def complete(self, complete: bool) -> None:
        """Make the latest version incomplete, as while a task creates it, and complete again."""
        latest = RepositoryVersion.objects.filter(repository=self.repository).order_by("-number")
        RepositoryVersion.objects.filter(pk=latest[0].pk).update(complete=complete)
        self.check(self.base, "a")
        RepositoryVersion.objects.filter(pk=latest[0].pk).update(complete=True)

    @invariant()
    def cached_responses_equal_uncached(self) -> None:
        for path in PATHS:
            self.check(self.base, path)

    def check(self, base: str, path: str) -> None:
        assert self.app is not None and self.content is not None
        for headers in ({}, PASS):
            expected = get(self.app, f"/pulp/content/{base}/{path}", headers)
            for _ in range(2):  # the second may be a cache hit
                found = self.content.get(f"{base}/{path}", headers=headers)
                failed = (base, path, found.text, expected.text)
                assert found.status_code == expected.status_code, failed
                if expected.headers.get("content-type") != "text/html; charset=utf-8":
                    assert found.content == expected.content, (base, path)
                for name in HEADERS:
                    assert found.headers.get(name) == expected.headers.get(name), (base, path, name)


def test_cache_hits_equal_uncached_responses_after_every_change(orm, app, content):
    CacheMachine.app, CacheMachine.content = staticmethod(app), content
    run_state_machine_as_test(
        CacheMachine,
        settings=settings(
            max_examples=6,
            stateful_step_count=10,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),
        ),
    )
