"""pulp_certguard's X.509 and RHSM guards, with certificates made by the tests."""

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.certificates import DAY, NOW, Authority
from tests.support.pulp import unique
from tests.support.raw_client import get_unchanged
from tests.support.server import serving
from tests.support.versions import since

SECRET = b"for those with a certificate"

# Extensions of subscription certificates (RHSM, version 1): the order, and the entitled path.
ORDER = "1.3.6.1.4.1.2312.9.4.1"
PATH = "1.3.6.1.4.1.2312.9.2.1.1.6"


def text(value: str) -> bytes:
    """Encode a short text as an ASN.1 UTF8String."""
    return bytes([12, len(value)]) + value.encode()


def header_of(certificate: str) -> dict[str, str]:
    """Return the header by which proxies pass on a client's certificate."""
    return {"X-CLIENT-CERT": quote(certificate)}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module", params=["x509", "rhsm"])
def guarded(request, instance, authority) -> Iterator[str]:
    """The base path of a distribution, once behind an X.509 and once behind an RHSM guard."""
    yield from guard(instance, authority, request.param)


@pytest.fixture(scope="module")
def x509_guarded(instance, authority) -> Iterator[str]:
    yield from guard(instance, authority, "x509")


@pytest.fixture(scope="module")
def rhsm_guarded(instance, authority) -> Iterator[str]:
    yield from guard(instance, authority, "rhsm")


def guard(instance, authority: Authority, kind: str) -> Iterator[str]:
    pulp = instance.pulp()
    endpoint = f"contentguards/certguard/{kind}/"
    # The first authority of the bundle has issued nothing.
    bundle = Authority().pem + authority.pem
    href = pulp.create(endpoint, name=unique("guard"), ca_certificate=bundle)["pulp_href"]
    publication = pulp.publish(pulp.repository({"secret.txt": SECRET}))
    yield pulp.distribute(
        f"{unique('base')}/x86_64/os", publication=publication, content_guard=href
    )
    pulp.cleanup()


def for_path(authority: Authority, path: str, **options: Any) -> str:
    return authority.issue(**{ORDER: text("order"), PATH: text(path)}, **options)


@pytest.mark.parametrize("path", ["/secret.txt", "/", "/PULP_MANIFEST"])
def test_certificate_guard_permits_a_trusted_certificate(content, guarded, authority, path):
    header = header_of(for_path(authority, f"/{guarded}"))
    assert content.get(guarded + path, headers=header).status_code == 200
    assert content.head(guarded + path, headers=header).status_code == 200


def test_certificate_guard_permits_line_breaks_sent_as_spaces(content, guarded, authority):
    certificate = for_path(authority, f"/{guarded}").strip().replace("\n", " ")
    response = content.get(f"{guarded}/secret.txt", headers={"X-CLIENT-CERT": certificate})
    assert response.content == SECRET


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_certificate_guard_denies_untrusted_and_malformed_certificates(
    content, guarded, authority, method
):
    stranger, path = Authority(), f"/{guarded}"
    bad = [
        for_path(stranger, path),
        for_path(authority, path, until=NOW - DAY),
        for_path(authority, path)[:-60],
        "no certificate",
        "-----BEGIN CERTIFICATE-----é-----END CERTIFICATE-----",
        "%",
    ]
    for header in [{}, *map(header_of, bad), {"X-CLIENT-CERT": ""}, {"X-CLIENT-CERT": b"\xff\xfe"}]:
        response = content.request(method, f"{guarded}/secret.txt", headers=header)
        assert response.status_code == 403, header
        assert SECRET not in response.content
        assert "www-authenticate" not in response.headers


def test_certificate_guard_denial_has_its_reason(content, x509_guarded, authority):
    def reason(header: dict[str, str]) -> str:
        return content.get(f"{x509_guarded}/secret.txt", headers=header).text

    assert "X-CLIENT-CERT" in reason({})
    assert "expired" in reason(header_of(authority.issue(until=NOW - DAY)))
    assert "certificate" in reason(header_of(Authority().issue()))


def test_rhsm_guard_permits_the_entitled_paths(content, rhsm_guarded, authority):
    def status(**extensions: bytes) -> int:
        header = header_of(authority.issue(**extensions))
        return content.get(f"{rhsm_guarded}/secret.txt", headers=header).status_code

    order = {ORDER: text("order")}
    top = rhsm_guarded.split("/")[0]
    assert status(**order, **{PATH: text(f"/{top}")}) == 200
    assert status(**order, **{PATH: text(f"/{top}/$arch/os")}) == 200
    assert status(**order, **{PATH: text(f"/{top}/$arch/debug")}) == 403
    assert status(**order, **{PATH: text(f"/{top[:-1]}")}) == 403
    assert status(**order) == 403
    assert status() == 403, "a trusted certificate without a subscription"


@pytest.mark.parametrize(
    "spelling",
    [
        "{entitled}/../{base}/secret.txt",
        "{entitled}/./../{base}/secret.txt",
        "{entitled}/%2e%2e/{base}/secret.txt",
        "{entitled}//x/../../{base}//secret.txt",
        "{entitled}/..%2F{base}/secret.txt",
        "{entitled}%2Fx/../../{base}/secret.txt",
        "x/../{base}/secret.txt",
        "/{base}/secret.txt",
    ],
)
def test_rhsm_guard_compares_the_normalized_path(instance, rhsm_guarded, authority, spelling):
    """The path as sent begins with an entitled path, but leads elsewhere."""

    def get(path: str, entitled: str) -> tuple[int, bytes]:
        header = header_of(for_path(authority, f"/{entitled}"))
        return get_unchanged(instance.url, f"/pulp/content/{path}", header)

    path = spelling.format(entitled="entitled", base=rhsm_guarded)
    status, body = get(path, "entitled")
    assert status in (400, 403) and SECRET not in body
    assert get(path, rhsm_guarded)[0] in (200, 400)
    assert get(f"{rhsm_guarded}/./secret.txt", rhsm_guarded) == (200, SECRET)


@since("3.117")
def test_rhsm_guard_compares_the_path_without_the_domain(domains, rhsm_guarded, authority):
    header = header_of(for_path(authority, f"/{rhsm_guarded}"))
    url = f"{domains.content_url}default/{rhsm_guarded}/secret.txt"
    assert httpx.get(url, headers=header).content == SECRET
    assert httpx.get(url).status_code == 403


# Beyond the limit of upstream's server, 16 KiB for a header
BIG = {"1.2.3.4": bytes(range(256)) * 80}


def test_certificate_guard_permits_certificates_over_24_kib(content, x509_guarded, authority):
    header = header_of(authority.issue(**BIG))
    assert len(header["X-CLIENT-CERT"]) > 24 * 1024
    assert content.get(f"{x509_guarded}/secret.txt", headers=header).content == SECRET
    header = header_of(Authority().issue(**BIG))
    assert content.get(f"{x509_guarded}/secret.txt", headers=header).status_code == 403


@pytest.mark.parametrize("limited", [True, False])
def test_certificate_over_the_limit_of_h11_needs_an_option(
    instance, x509_guarded, authority, limited
):
    """Without the option, h11 refuses a head in two parts, as from a network."""
    header = quote(authority.issue(**BIG))
    option = () if limited else ("--h11-max-incomplete-event-size", "131072")
    with serving(instance, "--http", "h11", *option) as server:
        url = httpx.URL(server.url)
        path = f"/pulp/content/{x509_guarded}/secret.txt"
        request = f"GET {path} HTTP/1.1\r\nHost: pulp\r\nX-CLIENT-CERT: {header}\r\n\r\n".encode()
        with socket.create_connection((url.host, url.port)) as connection:
            connection.sendall(request[: 20 * 1024])
            httpx.options(server.content_url)  # after its response, the first part has been read
            if not limited:
                connection.sendall(request[20 * 1024 :])
            answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400" if limited else b"HTTP/1.1 200")
