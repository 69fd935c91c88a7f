"""The server keeps to its OpenAPI document: requests by schemathesis, valid and invalid."""

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import hypothesis
import pytest
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation

from pulpcore.content_star.listings.pagination import make_cursor
from tests.support.conformance import conform, with_values
from tests.support.orm import Orm
from tests.support.remote_files import RemoteFiles
from tests.support.server import Server

EXAMPLES = 10

FILES = {"file": b"content", "dir/file": b"x" * 70_000, "dir/page.html": b"<p>a page"}

# Conditions that hold and some that do not, ranges within and beyond the file.
HEADERS = {
    "Range": ["bytes=0-1", "bytes=-1", "bytes=0-0,2-2", "bytes=99999999-", "nonsense"],
    "If-Match": ["*", '"other"'],
    "If-None-Match": ["*", '"other"'],
    "If-Modified-Since": ["Sat, 01 Jan 2000 00:00:00 GMT", "Sat, 01 Jan 2050 00:00:00 GMT", "x"],
    "If-Unmodified-Since": ["Sat, 01 Jan 2000 00:00:00 GMT", "Sat, 01 Jan 2050 00:00:00 GMT"],
    "If-Range": ['"other"', "Sat, 01 Jan 2050 00:00:00 GMT"],
}


class Site:
    """Distributions of all kinds, behind guards and without.

    Their names are the same in each run, and so are the requests.
    """

    def __init__(self, orm: Orm, server, content: httpx.Client) -> None:
        from pulp_file.app.models import FileRemote

        from pulpcore.app.models import (
            ArtifactDistribution,
            HeaderContentGuard,
            Publication,
            RBACContentGuard,
        )

        self.orm = orm
        version = orm.version(FILES)
        fields = {"from_publication": False, "repository_version": version}
        self.published = orm.distribution(
            "conformance/published",
            publication=orm.publication({"index.html": b"<p>index", "file": b"published"}),
        )
        self.files = RemoteFiles(server)
        folder = orm.unique()
        server.files[f"{folder}/file"] = b"of the remote"
        remote = orm._save(
            FileRemote(name=folder, url=f"{server.url}{folder}/", policy="streamed", max_retries=1)
        )
        checkpoint = orm.publication({"file": b"of a checkpoint"})
        Publication.objects.filter(pk=checkpoint.pk).update(
            checkpoint=True, pulp_created=CHECKPOINT
        )
        self.checkpoints = orm.distribution(
            "conformance/checkpoint",
            repository=checkpoint.repository_version.repository,
            checkpoint=True,
        )
        self.base_paths = [
            orm.distribution("conformance/version", **fields),
            orm.distribution(
                "conformance/rbac", **fields, content_guard=orm.guard(RBACContentGuard)
            ),
            orm.distribution(
                "conformance/header",
                **fields,
                content_guard=orm.guard(HeaderContentGuard, header_name="x-a", header_value="b"),
            ),
            orm.distribution("conformance/passed", publication=orm.publication({}, version)),
            orm.distribution("conformance/pull-through", from_publication=False, remote=remote),
            self.files.make().path.removesuffix("/file"),  # on demand
            self.published,
            self.checkpoints,
            ArtifactDistribution.objects.get().base_path,
        ]


@pytest.fixture(scope="module")
def site(module_orm, server, content) -> Iterator[Site]:
    site = Site(module_orm, server, content)
    yield site
    site.files.cleanup()


CHECKPOINT = datetime(2026, 1, 1, tzinfo=UTC)
TIME, LATER = "20260101T000000Z", "20260101T000001Z"

PATHS = {
    "path": ["file", "dir/file", "dir", f"{TIME}/file", f"{LATER}/file"],
    "directory": ["dir", TIME],
    "cursor": [make_cursor("file")],
}


@pytest.fixture(scope="module")
def document(content, site):
    """The document, with paths of the site and any headers."""
    values = {"base_path": site.base_paths, **PATHS}
    return with_values(content.get("openapi.json").json(), values)


def is_listing(operation: APIOperation) -> bool:
    return operation.path.endswith("/")


def test_valid_requests_for_pages_conform_to_the_openapi_document(document, instance):
    statuses = conform(
        with_values(document, HEADERS),
        instance.url,
        GenerationMode.POSITIVE,
        examples=EXAMPLES,
        headers={"Accept": "text/html"},
        adapt=lambda case: case.query.pop("cursor", None),  # each page has cursors of its own
    )
    assert {200, 301, 401, 403, 404} <= statuses.keys()


def test_valid_requests_for_json_conform_to_the_openapi_document(document, instance):
    statuses = conform(
        with_values(document, HEADERS),
        instance.url,
        GenerationMode.POSITIVE,
        examples=EXAMPLES,
        headers={"Accept": "application/json"},
    )
    assert {200, 301, 401, 403, 404} <= statuses.keys()


@pytest.mark.parametrize(
    ("header", "expected"),
    [("Range", {206, 416}), ("If-None-Match", {200, 304}), ("If-Match", {200, 412})],
)
def test_ranges_and_conditions_conform_to_the_openapi_document(
    document, instance, site, header, expected
):
    def adapt(case: Case) -> None:
        """Send this header alone: other conditions and facts of a file come first."""
        case.query.clear()
        hypothesis.assume(header in case.headers)
        for name in HEADERS.keys() - {header}:
            case.headers.pop(name, None)

    values = {"base_path": site.base_paths[:1], "path": ["file"], **HEADERS}
    statuses = conform(
        with_values(document, values),
        instance.url,
        GenerationMode.POSITIVE,
        examples=EXAMPLES,
        headers={},
        accept=lambda operation: operation.method == "get" and operation.path.endswith("{path}"),
        adapt=adapt,
    )
    assert expected <= statuses.keys()


def test_invalid_requests_are_refused_as_the_openapi_document_has_it(document, instance, site):
    """Pages refuse parameters that other forms of a directory ignore."""

    def accept(operation: APIOperation) -> bool:
        has_parameters = any(True for _ in operation.iter_parameters())
        return has_parameters and operation.method in ("get", "head")

    def adapt(case: Case) -> None:
        if is_listing(case.operation):  # neither has the parameters of a page
            case.query.pop("list", None)
            case.query.pop("use", None)

    # Not where index.html is shown, nor where a list of links has no parameters.
    listed = [each for each in site.base_paths if each != site.published]
    statuses = conform(
        with_values(document, {"base_path": listed}),
        instance.url,
        GenerationMode.NEGATIVE,
        examples=EXAMPLES,
        headers={"Accept": "text/html"},
        accept=accept,
        adapt=adapt,
    )
    assert {400, 404} <= statuses.keys()


def test_requests_in_a_domain_conform_to_the_openapi_document(domains: Server, site):
    document = httpx.get(f"{domains.content_url}openapi.json").json()
    values = {"pulp_domain": ["default", "none"], "base_path": ["conformance/version", "none"]}
    statuses = conform(
        with_values(document, {**values, **PATHS, **HEADERS}),
        domains.url,
        GenerationMode.POSITIVE,
        examples=EXAMPLES // 2,
        headers={"Accept": "application/json"},
    )
    assert {200, 404} <= statuses.keys()
