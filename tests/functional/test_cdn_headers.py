"""Headers for CDNs and shared caches: surrogate keys, Cache-Control and Vary."""

import base64

import pytest

from tests.support.asgi import get
from tests.support.pulp import unique

KEY = {"X-Key": base64.b64encode(b"open").decode()}
OLD = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}


def surrogate_keys(response) -> set[str]:
    """Return the surrogate keys of a response, the same in Surrogate-Key and Cache-Tag."""
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
def test_surrogate_keys_name_distribution_repository_version_and_publication(
    content, orm, method, path, headers, status
):
    publication = orm.publication({"a.txt": b"abc", "dir/b": b"b"})
    version = publication.repository_version
    base = orm.distribution(publication=publication)
    response = content.request(method, base + path, headers=headers)
    assert response.status_code == (200 if (method, status) == ("HEAD", 206) else status)
    assert surrogate_keys(response) == {
        f"distribution-{distribution(base).pk}",
        f"repository-{version.repository_id}",
        f"version-{version.pk}",
        f"publication-{publication.pk}",
    }


def test_surrogate_keys_change_with_the_publication(content, pulp, orm):
    repository = pulp.repository({"a.txt": b"a"})
    base = pulp.distribute(repository=repository)
    before = surrogate_keys(content.get(f"{base}/a.txt"))
    pulp.publish(repository)
    published = surrogate_keys(content.get(f"{base}/a.txt"))
    pulp.upload(repository, "b.txt", b"b")
    pulp.publish(repository)
    after = surrogate_keys(content.get(f"{base}/a.txt"))
    lasting = before & published & after
    assert {tag.split("-")[0] for tag in lasting} == {"distribution", "repository"}
    assert {tag.split("-")[0] for tag in published - after} == {"version", "publication"}
    assert {tag.split("-")[0] for tag in after - published} == {"version", "publication"}


def test_surrogate_key_of_a_distribution_without_content(content, orm):
    base = orm.distribution()
    expected = {f"distribution-{distribution(base).pk}"}
    assert surrogate_keys(content.get(base)) == surrogate_keys(content.get(f"{base}/x")) == expected


@pytest.mark.parametrize("path", ["", "nope/nope", "livez"])
def test_surrogate_keys_are_absent_outside_of_distributions(content, path):
    assert surrogate_keys(content.get(path)) == set()


@pytest.mark.parametrize("path", ["/a.txt", "/", "", "/nope"])
def test_surrogate_keys_are_absent_where_a_guard_denies(content, pulp, orm, path):
    base = guarded(pulp, "header", header_name="x-key", header_value="open")
    denied = content.get(base + path)
    assert (denied.status_code, surrogate_keys(denied)) == (403, set())
    assert surrogate_keys(content.get(base + path, headers=KEY))


def guarded(pulp, kind: str, **fields) -> str:
    guard = pulp.create(f"contentguards/core/{kind}/", name=unique("guard"), **fields)
    repository = pulp.repository({"a.txt": b"a"})
    return pulp.distribute(publication=pulp.publish(repository), content_guard=guard["pulp_href"])


def test_cache_control_has_shared_caches_revalidate_each_time(content, pulp, orm):
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
        # Revalidation carries the client's own headers to the guard, so no Vary is needed.
        assert headers.get("Vary", "Accept") in ("Accept", "Accept-Encoding, Accept")


@pytest.mark.parametrize(
    ("cache_control", "is_revalidated"),
    [
        ("max-age=600", False),
        ("public, s-maxage=600, max-age=0", False),
        ("no-cache", True),
        ("private, max-age=600", True),
        ("public, max-age=0", True),
    ],
)
def test_vary_of_reusable_responses_has_the_headers_of_the_guard(
    app, orm, monkeypatch, cache_control, is_revalidated
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
        assert response.headers.get("Vary") == (None if is_revalidated else vary)
