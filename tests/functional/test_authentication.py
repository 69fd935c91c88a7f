"""Authentication for guarded content: challenges, sessions, the password cache, other classes."""

import base64
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.pulp import unique
from tests.support.server import serving

SECRET = b"for those who may"
CHALLENGE = 'Basic realm="api"'


@pytest.fixture(scope="module")
def guard(instance) -> Iterator[Any]:
    """An RBAC guard, whose `base` is the base path of the guarded distribution."""
    from pulpcore.app.models import RBACContentGuard

    pulp = instance.pulp()
    href = pulp.create("contentguards/core/rbac/", name=unique("guard"))["pulp_href"]
    publication = pulp.publish(pulp.repository({"secret.txt": SECRET}))
    guard = RBACContentGuard.objects.get(pk=href.split("/")[-2])
    guard.base = pulp.distribute(publication=publication, content_guard=href)
    yield guard
    pulp.cleanup()


@pytest.fixture(scope="module")
def first() -> str:
    """The hash of the password `first`, which takes a quarter of a second to make."""
    from django.contrib.auth.hashers import make_password

    return make_password("first")


@pytest.fixture
def user(guard, orm, first) -> Iterator[Any]:
    """A user with the guard's download role and the password `first`."""
    from django.contrib.auth import get_user_model

    from pulpcore.app.role_util import assign_role

    user = get_user_model().objects.create(username=unique("user"), password=first)
    assign_role("core.rbaccontentguard_downloader", user, guard)
    yield user
    type(user).objects.filter(pk=user.pk).delete()


@pytest.fixture
def get(content, guard):
    """Return a function that GETs the guarded file, checks the headers and returns the status."""

    def get(name: str = "", password: str = "", **options: Any) -> int:
        auth = (name, password) if name else None
        response = content.get(f"{guard.base}/secret.txt", auth=auth, **options)
        assert (response.content == SECRET) == (response.status_code == 200)
        assert ("www-authenticate" in response.headers) == (response.status_code == 401)
        assert "set-cookie" not in response.headers
        return response.status_code

    return get


@pytest.fixture
def browser(instance, user) -> Iterator[httpx.Client]:
    """A client with a session: the user has logged in at the API's login page."""
    with httpx.Client(base_url=instance.url) as client:
        log_in(client, user, "first")
        yield client


def log_in(client: httpx.Client, user: Any, password: str) -> None:
    form = client.get("/auth/login/").text
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    fields = {"username": user.username, "password": password, "csrfmiddlewaretoken": token[1]}
    response = client.post("/auth/login/", data={**fields, "next": "/pulp/api/v3/status/"})
    assert response.status_code == 302, response.text


# Challenges


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/secret.txt", "/", "", "/nothing"])
def test_challenge_is_sent_without_credentials(content, guard, method, path):
    response = content.request(method, guard.base + path, headers={"If-None-Match": "*"})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == CHALLENGE
    assert "etag" not in response.headers
    assert response.text == ("" if method == "HEAD" else response.text)


def test_challenge_of_xml_http_request_is_not_shown_by_browsers(content, guard):
    scripted = {"X-Requested-With": "XMLHttpRequest", "Accept": "application/json"}
    response = content.get(f"{guard.base}/secret.txt", headers=scripted)
    assert response.headers["www-authenticate"] == f"x{CHALLENGE}"
    assert "credentials were not provided" in response.json()["detail"]


def test_challenge_is_answered_by_a_standard_client(content, guard, user):
    url = f"{content.base_url}{guard.base}/secret.txt"
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, url, user.username, "first")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(passwords)
    )
    with opener.open(url) as response:
        assert response.read() == SECRET


def test_user_without_permission_gets_403_without_challenge(get, user):
    from django.contrib.auth import get_user_model

    stranger = get_user_model().objects.create_user(unique("user"), password="first")
    try:
        assert get(stranger.username, "first") == 403
    finally:
        stranger.delete()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic bm86Ym9keQ=="},
        {"Authorization": "Basic"},
        {"Authorization": "Basic a b"},
        {"Authorization": "Basic ????"},
        {"Authorization": "Basic " + "AAAA" * 2000},
        {"Authorization": "Basic YQBiOmM="},  # a NUL, which PostgreSQL refuses
        {"Authorization": "Basic 7aCAOmM="},  # a lone surrogate
        {"Authorization": b"Basic \xff\xfe"},
        {"Authorization": b"\xe9"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Bearer x", "Cookie": "sessionid=nobody-has-this"},
        {"X-CLIENT-CERT": "a certificate"},
    ],
)
def test_invalid_credentials_get_403_without_challenge(get, headers):
    assert get(headers=headers) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": "sessionid=nobody-has-this"},
        {"Cookie": 'sessionid="nobody\\000has"; other=1'},
        {"Cookie": b"sessionid=\xff\xfe\xe9\xe9\xe9\xe9\xe9\xe9\xe9"},
        {"Cookie": "sessionid"},
        {"Cookie": "=;;=, sessionid=; a b=c; $Version=1; [x]=y"},
        {"Cookie": "sessionid=" + "x" * 5000},
        {"Cookie": "csrftoken=?; sessionid=../../../etc/passwd"},
        {"Content-Type": "text/plain; charset=nonsense"},
        {"Content-Type": b"\xff/\xff; charset=\xff"},
        {"X-Forwarded-Proto": "\u0080", "X-Forwarded-For": ",,x"},
        {"X-Requested-With": b"\xff"},
        {"Accept": "\u00e9/;q=x"},
        {"Host": "["},
        {"Host": "é".encode()},
        {"Authorization": ""},
        {"X-CLIENT-CERT": ""},
    ],
)
def test_malformed_headers_are_no_credentials(content, guard, headers):
    headers = {
        name: value if isinstance(value, bytes) else value.encode("latin-1")
        for name, value in headers.items()
    }
    response = content.get(f"{guard.base}/secret.txt", headers=headers)
    assert response.status_code in (400, 401), response.text
    # Only invalid HTTP is refused before authentication.
    refused = ("Invalid HTTP", "Host header")
    assert response.status_code == 401 or any(text in response.text for text in refused)


# Sessions


def test_session_of_a_user_with_permission_gets_content(browser, guard):
    url = f"/pulp/content/{guard.base}/"
    assert "secret.txt" in browser.get(url).text
    response = browser.get(url + "secret.txt")
    assert response.content == SECRET
    assert "set-cookie" not in response.headers
    assert browser.head(url + "secret.txt").status_code == 200
    browser.post("/auth/logout/", headers={"X-CSRFToken": browser.cookies["csrftoken"]})
    response = browser.get(url)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == CHALLENGE


def test_session_of_a_user_without_permission_gets_403(browser, guard, user):
    user.object_roles.all().delete()
    response = browser.get(f"/pulp/content/{guard.base}/secret.txt")
    assert response.status_code == 403


def test_session_is_invalid_after_a_password_change_and_not_deleted(browser, guard, user):
    from django.contrib.sessions.models import Session

    user.set_password("second")
    user.save()
    url = f"/pulp/content/{guard.base}/secret.txt"
    assert browser.get(url).status_code == 401
    key = browser.cookies["sessionid"]
    assert Session.objects.filter(pk=key).exists()
    Session.objects.filter(pk=key).delete()


# The cache of correct passwords


def test_password_cache_is_invalid_after_a_password_change(get, user):
    assert [get(user.username, "first") for _ in range(3)] == [200] * 3
    assert get(user.username, "second") == 403
    user.set_password("second")
    user.save()
    assert get(user.username, "first") == 403
    assert [get(user.username, "second") for _ in range(2)] == [200] * 2


def test_password_cache_has_no_wrong_passwords(get, user):
    assert [get(user.username, "second") for _ in range(2)] == [403] * 2
    user.set_password("second")
    user.save()
    assert get(user.username, "second") == 200


def test_password_cache_is_invalid_for_inactive_renamed_and_deleted_users(get, user):
    assert get(user.username, "first") == 200
    user.is_active = False
    user.save()
    assert get(user.username, "first") == 403
    user.is_active = True
    user.save()
    assert get(user.username, "first") == 200
    name = user.username
    user.username = unique("user")
    user.save()
    assert get(name, "first") == 403
    assert get(user.username, "first") == 200
    type(user).objects.filter(pk=user.pk).delete()
    assert get(user.username, "first") == 403


def test_password_cache_does_not_cache_permissions(get, user):
    assert get(user.username, "first") == 200
    user.object_roles.all().delete()
    assert get(user.username, "first") == 403


# Other authentication classes


def test_authentication_classes_of_the_rest_framework_setting_are_used(instance, guard, user):
    """With a header class first, REST framework sends no challenge."""
    classes = [
        "pulpcore.app.authentication.JSONHeaderRemoteAuthentication",
        "rest_framework.authentication.BasicAuthentication",
    ]
    backends = [
        "django.contrib.auth.backends.ModelBackend",
        "pulpcore.backends.ObjectRolePermissionBackend",
        "pulpcore.app.authentication.PulpNoCreateRemoteUserBackend",
    ]
    configured = {
        "PULP_REST_FRAMEWORK__DEFAULT_AUTHENTICATION_CLASSES": json.dumps(classes),
        "PULP_AUTHENTICATION_BACKENDS": json.dumps(backends),
        "PULP_AUTHENTICATION_JSON_HEADER": "HTTP_X_IDENTITY",
        "PULP_AUTHENTICATION_JSON_HEADER_JQ_FILTER": ".user",
    }

    def identity(claims: Any) -> dict[str, bytes]:
        return {"X-Identity": base64.b64encode(json.dumps(claims).encode())}

    with serving(instance, **configured) as server:

        def status(**options: Any) -> int:
            response = httpx.get(f"{server.content_url}{guard.base}/secret.txt", **options)
            assert (response.content == SECRET) == (response.status_code == 200)
            assert "www-authenticate" not in response.headers
            return response.status_code

        assert status(headers=identity({"user": user.username})) == 200
        assert status(auth=(user.username, "first")) == 200
        assert status(cookies=log_in_at(server.url, user)) == 403, "no session authentication"
        odd = [{"user": "a\0b"}, {"user": "nobody"}, {"user": ""}, {}, [], "text", 5, None]
        for headers in [{}, {"X-Identity": "?"}, {"X-Identity": b"\xff"}, *map(identity, odd)]:
            assert status(headers=headers) == 403, headers
        # A proxy that sets X-Identity passes a client's X_Identity on unchanged.
        spoofed = {"X_Identity": identity({"user": user.username})["X-Identity"]}
        assert status(headers=spoofed) == 403
        api = f"{server.url}/pulp/api/v3/repositories/"
        assert httpx.get(api, headers=identity({"user": user.username})).status_code == 200
        assert httpx.get(api, headers=spoofed).status_code in (401, 403)
        for value in (b"\xff\xfe", b"[" * 9000, b"{"):
            assert status(headers={"X-Identity": base64.b64encode(value)}) == 403, value


def log_in_at(url: str, user: Any) -> httpx.Cookies:
    with httpx.Client(base_url=url) as client:
        log_in(client, user, "first")
        return client.cookies
