"""Content guards: denied content is in no response."""

import base64
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.pulp import unique
from tests.support.raw_client import get_unchanged
from tests.support.server import serving
from tests.support.versions import since

SECRET = b"for those with the key"
KEY = {"X-Key": base64.b64encode(b"open").decode()}


@pytest.fixture(scope="module")
def secret(instance) -> Iterator[str]:
    """The publication of `secret.txt`."""
    pulp = instance.pulp()
    yield pulp.publish(pulp.repository({"secret.txt": SECRET}))
    pulp.cleanup()


@pytest.fixture(scope="module")
def guarded(instance, secret) -> Iterator[str]:
    """The base path of a distribution of the publication, behind a header guard."""
    pulp = instance.pulp()
    yield guard_with(pulp, secret, "header", header_name="x-key", header_value="open")
    pulp.cleanup()


def guard_with(pulp, secret: str, kind: str, **fields) -> str:
    guard = pulp.create(f"contentguards/core/{kind}/", name=unique("guard"), **fields)
    return pulp.distribute(publication=secret, content_guard=guard["pulp_href"])


def test_header_guard_permits_the_right_header(content, guarded):
    assert content.get(f"{guarded}/secret.txt", headers=KEY).content == SECRET
    assert "secret.txt" in content.get(f"{guarded}/", headers=KEY).text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Key": "bm90IG9wZW4="},
        {"Range": "bytes=0-3"},
        {"If-None-Match": "*"},
        {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
        {"If-Match": '"other"'},
        {"Range": "bytes=100000-"},
    ],
)
@pytest.mark.parametrize("path", ["/secret.txt", "/", "", "/nothing", "/PULP_MANIFEST"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_guard_denies_without_revealing_anything(content, guarded, method, path, headers):
    response = content.request(method, guarded + path, headers=headers)
    assert response.status_code == 403
    assert not {"etag", "last-modified", "content-range", "location"} & set(response.headers)
    assert SECRET not in response.content
    assert b"secret.txt" not in response.content


def test_rbac_guard_permits_by_user(content, pulp, secret):
    base = guard_with(pulp, secret, "rbac")
    assert content.get(f"{base}/secret.txt").status_code == 401
    assert content.get(f"{base}/secret.txt", auth=("admin", "wrong")).status_code == 403
    assert content.get(f"{base}/secret.txt", auth=pulp.auth).content == SECRET


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Basic " + base64.b64encode(b"a\0b:c").decode()}, 403),
        ({"Content-Type": "text/plain; charset*=no-such-encoding'x'%ff"}, 403),
    ],
)
def test_rbac_guard_denies_with_unreadable_headers(content, pulp, headers, status, secret):
    base = guard_with(pulp, secret, "rbac")
    response = content.get(f"{base}/secret.txt", headers=headers)
    assert response.status_code == status
    assert SECRET not in response.content


def test_composite_guard_continues_after_a_member_that_fails_on_a_malformed_header(content, orm):
    from pulpcore.app.models import CompositeContentGuard, HeaderContentGuard

    composite = orm.guard(CompositeContentGuard)
    for name in ("X-One", "X-Two"):
        guard = orm.guard(HeaderContentGuard, header_name=name, header_value="1")
        composite.guards.add(guard)
    publication = orm.publication({"a": b"a"})
    path = f"{orm.distribution(publication=publication, content_guard=composite)}/a"
    malformed, right = b"\xe9", base64.b64encode(b"1")
    assert content.get(path, headers={"X-One": malformed}).status_code == 403
    assert content.get(path, headers={"X-One": malformed, "X-Two": right}).text == "a"


def test_composite_guard_permits_if_one_of_its_guards_does(content, pulp, secret):
    header = pulp.create(
        "contentguards/core/header/",
        name=unique("guard"),
        header_name="x-key",
        header_value="open",
    )
    rbac = pulp.create("contentguards/core/rbac/", name=unique("guard"))
    base = guard_with(pulp, secret, "composite", guards=[header["pulp_href"], rbac["pulp_href"]])
    assert content.get(f"{base}/secret.txt").status_code == 401
    assert content.get(f"{base}/secret.txt", headers=KEY).content == SECRET
    assert content.get(f"{base}/secret.txt", auth=pulp.auth).content == SECRET


def test_redirect_guard_permits_the_signed_path_only(content, pulp, orm, secret):
    from pulpcore.app.models import ContentRedirectContentGuard

    base = guard_with(pulp, secret, "content_redirect")
    guard = ContentRedirectContentGuard.objects.latest("pulp_created")
    assert content.get(f"{base}/secret.txt").status_code == 403
    url = guard.preauthenticate_url(f"{content.base_url}{base}/secret.txt")
    assert content.get(url).content == SECRET
    assert content.get(url.replace("secret.txt", "PULP_MANIFEST")).status_code == 403
    assert content.get(url + "0").status_code == 403


def test_redirect_guard_denies_other_files_in_all_spellings_of_the_path(instance, pulp, orm):
    from pulpcore.app.models import ContentRedirectContentGuard

    guard = orm.guard(ContentRedirectContentGuard)
    files = {"a/b.txt": b"signed", "b.txt": SECRET, "a/x/b.txt": SECRET}
    base = orm.distribution(publication=orm.publication(files), content_guard=guard)
    signed = httpx.URL(guard.preauthenticate_url(f"{instance.content_url}{base}/a/b.txt"))

    def get(spelling: str) -> tuple[int, bytes]:
        target = f"/pulp/content/{base}/{spelling}?{signed.query.decode()}"
        return get_unchanged(instance.url, target)

    for spelling in ("a/b.txt", "a/./b.txt", "./a/x/../b.txt", "a//b.txt", "x//../a/%2e/b.txt"):
        assert get(spelling) == (200, b"signed"), spelling
    for spelling in (
        "b.txt",
        "a//../b.txt",
        "a/../b.txt",
        "a/x%2F../b.txt",
        "a/x%2Fb.txt",
        "x%2Fa/../b.txt",
        "a%2F..%2Fb.txt",
        "a/b.txt/../x/b.txt",
    ):
        status, body = get(spelling)
        assert status in (400, 403) and SECRET not in body, spelling


def test_guarded_distributions_are_hidden_by_the_domain(content, pulp, orm, secret):
    from pulpcore.app.models import Domain

    guarded, open_ = guard_with(pulp, secret, "rbac"), pulp.distribute()
    domain = Domain.objects.get(name="default")
    assert f'"{guarded}/"' in content.get("").text
    try:
        Domain.objects.filter(pk=domain.pk).update(hide_guarded_distributions=True)
        listing = content.get("").text
    finally:
        Domain.objects.filter(pk=domain.pk).update(hide_guarded_distributions=False)
    assert f'"{guarded}/"' not in listing
    assert f'"{open_}/"' in listing


def test_guarded_distributions_are_hidden_by_the_setting(instance, pulp, secret):
    guarded, open_ = guard_with(pulp, secret, "rbac"), pulp.distribute()
    with serving(instance, PULP_HIDE_GUARDED_DISTRIBUTIONS="true") as server:
        listing = httpx.get(server.content_url).text
    assert f'"{guarded}/"' not in listing
    assert f'"{open_}/"' in listing


@pytest.fixture(scope="module", params=["broken", "composite"])
def broken(request, instance, secret) -> Iterator[str]:
    """The base path of a distribution whose guard's plugin is not installed."""
    from pulpcore.app.models import CompositeContentGuard, ContentGuard, Distribution

    pulp = instance.pulp()
    guard = ContentGuard(name=unique("guard"), pulp_type="gone.guard")
    guard.save()
    composite = CompositeContentGuard(name=unique("guard"))
    composite.save()
    composite.guards.add(guard)
    base = pulp.distribute(publication=secret)
    chosen = composite if request.param == "composite" else guard
    Distribution.objects.filter(base_path=base).update(content_guard=chosen.pk)
    yield base
    pulp.cleanup()
    composite.delete()
    ContentGuard.objects.filter(pk=guard.pk).delete()


@pytest.mark.parametrize(
    "headers", [{}, {"Range": "bytes=0-3"}, {"If-None-Match": "*"}, {"If-Match": '"other"'}]
)
@pytest.mark.parametrize("path", ["/secret.txt", "/", "", "/nothing", "/PULP_MANIFEST"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_guard_that_fails_denies_with_500(content, broken, method, path, headers):
    response = content.request(method, broken + path, headers=headers)
    assert response.status_code == 500
    assert not {"etag", "last-modified", "content-range", "location"} & set(response.headers)
    if method == "GET":
        assert response.headers["Correlation-ID"] in response.text
    assert b"secret" not in response.content


@pytest.fixture(scope="module")
def with_jq(instance, secret) -> Iterator[str]:
    """The base path of a distribution whose guard expects JSON with `identity.org` `good`."""
    pulp = instance.pulp()
    fields = {"header_name": "x-json", "header_value": "good", "jq_filter": ".identity.org"}
    yield guard_with(pulp, secret, "header", **fields)
    pulp.cleanup()


def test_header_guard_with_jq_filter_permits_matching_json(content, with_jq):
    key = base64.b64encode(json.dumps({"identity": {"org": "good"}}).encode())
    assert content.get(f"{with_jq}/secret.txt", headers={"X-JSON": key}).content == SECRET


@pytest.mark.parametrize(
    "value",
    [
        "?",
        "YQ",
        "\u00e9",
        b"\xff\xfe",
        base64.b64encode(b"\xff\xfe"),
        base64.b64encode(b"nonsense"),
        base64.b64encode(b'"text"'),
        base64.b64encode(b'["list"]'),
        base64.b64encode(b'{"identity": 5}'),
        base64.b64encode(b"null"),
        base64.b64encode(b"[" * 5000),
        base64.b64encode(b"9" * 5000),
        base64.b64encode(b'{"identity": {"org": "\\u0000"}}'),
        base64.b64encode(b'{"identity": {"org": NaN}}'),
    ],
)
def test_header_guard_denies_malformed_values(content, with_jq, guarded, value):
    key = value if isinstance(value, bytes) else value.encode("latin-1")
    for base in (with_jq, guarded):
        response = content.get(f"{base}/secret.txt", headers={"X-JSON": key, "X-Key": key})
        assert response.status_code == 403
        assert "www-authenticate" not in response.headers


@since("3.119")
def test_environment_variable_guard_permits_the_value_of_the_variable(instance, pulp, orm, secret):
    from pulpcore.app.models import Distribution, EnvVarHeaderContentGuard

    guard = EnvVarHeaderContentGuard(
        name=unique("guard"), header_name="X-Key", env_var="STAR_TEST_KEY"
    )
    guard.save()
    base = pulp.distribute(publication=secret)
    Distribution.objects.filter(base_path=base).update(content_guard=guard.pk)
    allowed = {"PULP_ENVVAR_HEADER_CONTENT_GUARD_ALLOWED_VARS": '["STAR_TEST_KEY"]'}
    with serving(instance, STAR_TEST_KEY="open", **allowed) as server:
        url = f"{server.content_url}{base}/secret.txt"
        assert httpx.get(url, headers=KEY).content == SECRET
        for key in ("b3BlbjI=", "?", b"\xe9", base64.b64encode(b"\xff"), ""):
            assert httpx.get(url, headers={"X-Key": key}).status_code == 403, key
        assert httpx.get(url).status_code == 403
    # The session's instance allows no variable.
    assert httpx.get(f"{instance.content_url}{base}/secret.txt", headers=KEY).status_code == 403
    pulp.cleanup()
    guard.delete()


@since("3.117")
def test_default_guard_of_the_domain_guards_new_distributions(content, pulp, secret):
    from pulpcore.app.models import ContentGuard, Domain

    header = {"header_name": "x-key", "header_value": "open"}
    guard = pulp.create("contentguards/core/header/", name=unique("guard"), **header)
    default = Domain.objects.filter(name="default")
    try:
        default.update(default_content_guard=ContentGuard.objects.get(name=guard["name"]))
        base = pulp.distribute(publication=secret)
        rbac = guard_with(pulp, secret, "rbac")
    finally:
        default.update(default_content_guard=None)
    later = pulp.distribute(publication=secret)
    assert content.get(f"{base}/secret.txt").status_code == 403
    assert content.get(f"{base}/secret.txt", headers=KEY).content == SECRET
    assert content.get(f"{rbac}/secret.txt", headers=KEY).status_code == 401, (
        "its own guard decides"
    )
    assert content.get(f"{later}/secret.txt").content == SECRET
