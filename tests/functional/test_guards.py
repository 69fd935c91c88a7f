"""Content guards on the real process: what is denied is sent by no way."""

import base64

import pytest

from tests.pulp import unique

SECRET = b"for those with the key"
KEY = {"X-Key": base64.b64encode(b"open").decode()}


@pytest.fixture
def guarded(pulp) -> str:
    """The base path of a distribution with `secret.txt`, behind a header guard."""
    return guard_with(pulp, "header", header_name="x-key", header_value="open")


def guard_with(pulp, kind: str, **fields) -> str:
    guard = pulp.create(f"contentguards/core/{kind}/", name=unique("guard"), **fields)
    repository = pulp.repository({"secret.txt": SECRET})
    return pulp.distribute(publication=pulp.publish(repository), content_guard=guard["pulp_href"])


def test_the_key_opens(content, guarded):
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
def test_without_the_key_nothing_is_said(content, guarded_once, method, path, headers):
    response = content.request(method, guarded_once + path, headers=headers)
    assert response.status_code == 403
    assert not {"etag", "last-modified", "content-range", "location"} & set(response.headers)
    assert SECRET not in response.content
    assert b"secret.txt" not in response.content


@pytest.fixture(scope="module")
def guarded_once(instance):
    pulp = instance.pulp()
    yield guard_with(pulp, "header", header_name="x-key", header_value="open")
    pulp.cleanup()


def test_rbac_asks_who_the_user_is(content, pulp):
    base = guard_with(pulp, "rbac")
    assert content.get(f"{base}/secret.txt").status_code == 403
    assert content.get(f"{base}/secret.txt", auth=("admin", "wrong")).status_code == 403
    assert content.get(f"{base}/secret.txt", auth=pulp.auth).content == SECRET


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic " + base64.b64encode(b"a\0b:c").decode()},
        {"Content-Type": "text/plain; charset*=no-such-encoding'x'%ff"},
    ],
)
def test_headers_that_nobody_can_read_are_the_clients_mistake(content, pulp, headers):
    base = guard_with(pulp, "rbac")
    response = content.get(f"{base}/secret.txt", headers=headers)
    assert response.status_code == 400
    assert "headers" in response.text


def test_a_composite_permits_if_one_of_its_guards_does(content, pulp):
    header = pulp.create(
        "contentguards/core/header/",
        name=unique("guard"),
        header_name="x-key",
        header_value="open",
    )
    rbac = pulp.create("contentguards/core/rbac/", name=unique("guard"))
    base = guard_with(pulp, "composite", guards=[header["pulp_href"], rbac["pulp_href"]])
    assert content.get(f"{base}/secret.txt").status_code == 403
    assert content.get(f"{base}/secret.txt", headers=KEY).content == SECRET
    assert content.get(f"{base}/secret.txt", auth=pulp.auth).content == SECRET


def test_a_signed_url_opens_what_it_was_signed_for(content, pulp, orm):
    from pulpcore.app.models import ContentRedirectContentGuard

    base = guard_with(pulp, "content_redirect")
    guard = ContentRedirectContentGuard.objects.latest("pulp_created")
    assert content.get(f"{base}/secret.txt").status_code == 403
    url = guard.preauthenticate_url(f"{content.base_url}{base}/secret.txt")
    assert content.get(url).content == SECRET
    assert content.get(url.replace("secret.txt", "PULP_MANIFEST")).status_code == 403
    assert content.get(url + "0").status_code == 403


def test_guarded_distributions_are_hidden_where_the_domain_says_so(content, pulp, orm):
    from pulpcore.app.models import Domain

    guarded, open_ = guard_with(pulp, "rbac"), pulp.distribute()
    domain = Domain.objects.get(name="default")
    assert f"./{guarded}/" in content.get("").text
    try:
        Domain.objects.filter(pk=domain.pk).update(hide_guarded_distributions=True)
        listing = content.get("").text
    finally:
        Domain.objects.filter(pk=domain.pk).update(hide_guarded_distributions=False)
    assert f"./{guarded}/" not in listing
    assert f"./{open_}/" in listing


def test_guarded_distributions_are_hidden_where_the_setting_says_so(instance, pulp):
    import httpx

    from tests.server import serving

    guarded, open_ = guard_with(pulp, "rbac"), pulp.distribute()
    with serving(instance, PULP_HIDE_GUARDED_DISTRIBUTIONS="true") as server:
        listing = httpx.get(server.content_url).text
    assert f"./{guarded}/" not in listing
    assert f"./{open_}/" in listing
