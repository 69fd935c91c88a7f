"""What caches in front are told: names to purge by, and what answers depend on."""

import base64

import pytest

from tests.support.asgi import get
from tests.support.pulp import unique

KEY = {"X-Key": base64.b64encode(b"open").decode()}
OLD = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}


def tags(response) -> set[str]:
    """The names that a response can be purged by, the same in both headers."""
    keys = response.headers.get("Surrogate-Key", "").split()
    assert response.headers.get("Cache-Tag", "").split(",") == (keys or [""])
    assert len(set(keys)) == len(keys)
    return set(keys)


def distribution(base: str):
    from pulpcore.app.models import Distribution

    return Distribution.objects.get(base_path=base)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/a.txt", {}, 200),
        ("/a.txt", {"Range": "bytes=0-0"}, 206),
        ("/a.txt", OLD, 304),
        ("/", {}, 200),
        ("/dir", {}, 301),
        ("/nope", {}, 404),
        ("/nope", {"Accept": "application/json"}, 404),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_answers_name_what_they_come_from(content, orm, method, path, headers, status):
    publication = orm.publication({"a.txt": b"abc", "dir/b": b"b"})
    version = publication.repository_version
    base = orm.distribution(publication=publication)
    response = content.request(method, base + path, headers=headers)
    assert response.status_code == (200 if (method, status) == ("HEAD", 206) else status)
    assert tags(response) == {
        f"distribution-{distribution(base).pk}",
        f"repository-{version.repository_id}",
        f"version-{version.pk}",
        f"publication-{publication.pk}",
    }


def test_the_names_change_with_what_is_published(content, pulp, orm):
    repository = pulp.repository({"a.txt": b"a"})
    base = pulp.distribute(repository=repository)
    before = tags(content.get(f"{base}/a.txt"))
    pulp.publish(repository)
    published = tags(content.get(f"{base}/a.txt"))
    pulp.upload(repository, "b.txt", b"b")
    pulp.publish(repository)
    after = tags(content.get(f"{base}/a.txt"))
    lasting = before & published & after
    assert {tag.split("-")[0] for tag in lasting} == {"distribution", "repository"}
    assert {tag.split("-")[0] for tag in published - after} == {"version", "publication"}
    assert {tag.split("-")[0] for tag in after - published} == {"version", "publication"}


def test_a_distribution_without_content_has_a_name(content, orm):
    base = orm.distribution()
    expected = {f"distribution-{distribution(base).pk}"}
    assert tags(content.get(base)) == tags(content.get(f"{base}/x")) == expected


@pytest.mark.parametrize("path", ["", "nope/nope", "livez"])
def test_what_belongs_to_no_distribution_has_no_names(content, path):
    assert tags(content.get(path)) == set()


@pytest.mark.parametrize("path", ["/a.txt", "/", "", "/nope"])
def test_who_is_denied_learns_no_names(content, pulp, orm, path):
    base = guarded(pulp, "header", header_name="x-key", header_value="open")
    denied = content.get(base + path)
    assert (denied.status_code, tags(denied)) == (403, set())
    assert tags(content.get(base + path, headers=KEY))


def guarded(pulp, kind: str, **fields) -> str:
    guard = pulp.create(f"contentguards/core/{kind}/", name=unique("guard"), **fields)
    repository = pulp.repository({"a.txt": b"a"})
    return pulp.distribute(publication=pulp.publish(repository), content_guard=guard["pulp_href"])


def test_caches_ask_each_time_for_all_that_a_distribution_answers(content, pulp, orm):
    free = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    rbac = guarded(pulp, "rbac")
    header = guarded(pulp, "header", header_name="x-key", header_value="open")
    requests = [(f"{free}{path}", {}) for path in ("/a.txt", "/", "", "/nope")]
    requests += [(f"{rbac}/a.txt", {}), (f"{rbac}/a.txt", {"auth": pulp.auth})]
    requests += [(f"{header}{path}", {"headers": KEY}) for path in ("/a.txt", "/", "", "/nope")]
    requests += [(f"{header}/", {}), (f"{free}/a.txt", {"headers": {"If-None-Match": "*"}})]
    for path, request in requests:
        headers = content.get(path, **request).headers
        assert headers["Cache-Control"] == "public, max-age=0, must-revalidate"
        # Caches ask with what each client sent, and the guard decides: one copy is enough for all.
        assert headers.get("Vary", "Accept") in ("Accept", "Accept-Encoding, Accept")


@pytest.mark.parametrize(
    ("cache_control", "is_asked_for"),
    [
        ("max-age=600", False),
        ("public, s-maxage=600, max-age=0", False),
        ("no-cache", True),
        ("private, max-age=600", True),
        ("public, max-age=0", True),
    ],
)
def test_answers_that_caches_may_reuse_vary_by_what_the_guard_decides_by(
    app, orm, monkeypatch, cache_control, is_asked_for
):
    from pulp_file.app.models import FileDistribution

    from pulpcore.app.models import HeaderContentGuard, RBACContentGuard

    monkeypatch.setattr(
        FileDistribution, "content_headers_for", lambda *_: {"Cache-Control": cache_control}
    )
    guards = {
        "*": orm.guard(HeaderContentGuard, header_name="x", header_value="y"),
        "Authorization, Cookie, X-CLIENT-CERT": orm.guard(RBACContentGuard),
        None: None,
    }
    publication = orm.publication({"a.txt": b"a"})
    for guard in guards.values():
        if guard:
            monkeypatch.setattr(type(guard), "permit", lambda *_: None)
    for vary, guard in guards.items():
        base = orm.distribution(publication=publication, content_guard=guard)
        response = get(app, f"/pulp/content/{base}/a.txt")
        assert response.status_code == 200
        assert response.headers.get("Vary") == (None if is_asked_for else vary)
