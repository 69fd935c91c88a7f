"""How to use a distribution: the page of `?use`, its forms, guards, and facts about the source."""

import hashlib
import html
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from django.db import connection
from django.test import override_settings
from pulp_file.app.models import FileDistribution
from starlette.routing import Route

from pulpcore.app.models import (
    ContentArtifact,
    ContentRedirectContentGuard,
    Distribution,
    RBACContentGuard,
)
from pulpcore.content_star.distributions import registry, use_page
from pulpcore.content_star.plugin import PublicationApp
from tests.functional.test_pages import BROWSER, PREFIX, page_of
from tests.support.asgi import get
from tests.support.server import Server, serving

JSON = {"Accept": "application/json"}
FORMS = [BROWSER, JSON, {"Accept": "text/plain"}, {"Accept": "*/*"}]
INDEX = b"<!DOCTYPE html><title>of the publication</title>"


@pytest.fixture(scope="module")
def version(module_orm):
    return module_orm.version({"a.rpm": b"12345", "sub/b.rpm": b"1"})


@pytest.fixture(scope="module")
def base(module_orm, version) -> str:
    """A distribution of a version."""
    return module_orm.distribution(from_publication=False, repository_version=version)


@pytest.fixture(scope="module")
def own_root(module_orm) -> str:
    """A distribution whose publication has an `index.html` at the root."""
    return module_orm.distribution(publication=module_orm.publication({"index.html": INDEX}))


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (BROWSER["Accept"], "text/html"),
        ("application/json", "application/json"),
        ("text/plain", "text/plain"),
        ("*/*", "text/plain"),
    ],
)
def test_use_has_a_form_for_each_accept(content, base, accept, content_type):
    answer = content.get(f"{base}/?use", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(content_type)
    assert "Accept" in answer.headers["Vary"].split(", ")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox")
    assert f"{content.base_url}{base}/" in answer.text
    etag = answer.headers["ETag"]
    known = content.get(f"{base}/?use", headers={"Accept": accept, "If-None-Match": etag})
    assert known.status_code == 304


def test_use_as_json_has_source_amount_and_recipes(content, base, version):
    facts = content.get(f"{base}/?use", headers=JSON).json()
    assert facts["url"] == f"{content.base_url}{base}/"
    assert facts["type"] == "core.openpgp"
    assert facts["serves"] == f"version 1 of {version.repository.name}"
    assert (facts["content"], facts["size"]) == ({"file.file": 2}, 6)
    assert [each["title"] for each in facts["recipes"]] == ["curl and wget"]
    text = content.get(f"{base}/?use").text
    assert facts["recipes"][0]["text"] in text
    page = content.get(f"{base}/?use", headers=BROWSER).text
    assert f"Serves <bdi>version 1 of {version.repository.name}</bdi>: 2 file.file," in page
    assert "Browse the content" in page


def test_root_page_has_the_amount_of_content_too(content, base):
    assert ': 2 file.file, <span title="6 bytes">' in content.get(f"{base}/", headers=BROWSER).text


def test_use_of_distribution_without_slash_is_redirected_with_its_query(content, base):
    answer = content.get(f"{base}?use", headers=BROWSER)
    assert answer.status_code == 301
    assert answer.headers["Location"].endswith(f"{base}/?use")


def test_use_is_not_hidden_by_index_html_at_the_root(content, own_root):
    for _ in range(2):  # the second time from the cache
        assert content.get(f"{own_root}/", headers=BROWSER).content == INDEX
        assert "How to use" in content.get(f"{own_root}/?use", headers=BROWSER).text
        assert content.get(f"{own_root}/?use=1", headers=BROWSER).content == INDEX


def test_use_is_not_hidden_by_a_plugin_that_answers_the_root(app, own_root, monkeypatch):
    def refuse(self, path):
        raise AssertionError("the plugin was called")

    monkeypatch.setattr(FileDistribution, "content_handler", refuse)
    answer = get(app, f"{PREFIX}{own_root}/?use", BROWSER)
    assert answer.status_code == 200
    assert "How to use" in answer.text


def test_use_is_not_hidden_by_a_route_at_the_root(app, own_root):
    async def route(request):
        raise AssertionError("the route was called")

    earlier = registry.registered()
    try:

        @registry.serves(FileDistribution)
        class Routed(PublicationApp):
            routes = (Route("/", route),)

            def usage(self) -> str:
                return "of the plugin"

        answer = get(app, f"{PREFIX}{own_root}/?use", BROWSER)
    finally:
        registry.restore(earlier)
    assert answer.status_code == 200
    assert "of the plugin" in answer.text


@pytest.mark.parametrize("path", ["", "{base}/sub/"])
@pytest.mark.parametrize("query", ["use", "info", "checksum=sha256"])
def test_facts_of_a_directory_or_index_return_400(content, base, path, query):
    for headers in FORMS:
        answer = content.get(f"{path.format(base=base)}?{query}", headers=headers)
        assert answer.status_code == 400
        assert f"query parameter '{query.partition('=')[0]}' is for" in answer.text.replace(
            "&#x27;", "'"
        )


def test_use_of_a_file_is_ignored(content, base):
    for _ in range(2):
        assert content.get(f"{base}/a.rpm?use").content == b"12345"


@pytest.mark.parametrize("headers", FORMS)
def test_use_of_guarded_distribution_has_the_answer_of_the_guard(content, pulp, orm, headers):
    guard = orm.guard(RBACContentGuard)
    base = orm.distribution(publication=orm.publication({"a": b"a"}), content_guard=guard)
    denied, root = (content.get(f"{base}/{query}", headers=headers) for query in ("?use", ""))
    assert denied.status_code == root.status_code == 401
    assert denied.text == root.text
    for name in ("Content-Type", "WWW-Authenticate", "Vary"):
        assert denied.headers[name] == root.headers[name]
    permitted = content.get(f"{base}/?use", headers=headers, auth=pulp.auth)
    assert permitted.status_code == 200
    assert "user name and password" in permitted.text


def test_use_behind_a_redirect_guard_needs_its_own_signature(content, orm):
    guard = orm.guard(ContentRedirectContentGuard)
    base = orm.distribution(publication=orm.publication({"a": b"a"}), content_guard=guard)
    url = f"{content.base_url}{base}/"
    assert content.get(f"{url}?use", headers=BROWSER).status_code == 403
    signed = guard.preauthenticate_url(f"{url}?use")
    assert "signed URL" in content.get(signed, headers=BROWSER).text
    # The guard permits parameters after its token, as those of pages.
    root = guard.preauthenticate_url(url)
    answer = content.get(f"{root}&use", headers=BROWSER)
    assert answer.status_code == 200
    (browse,) = [href for href, text in page_of(answer).links.items() if "Browse" in text]
    assert content.get(str(httpx.URL(url).join(browse))).status_code == 200


def test_use_of_checkpoint_distribution_names_the_latest_checkpoint(content, orm):
    publication = orm.publication({"a": b"a"})
    type(publication).objects.filter(pk=publication.pk).update(checkpoint=True)
    repository = publication.repository_version.repository
    base = orm.distribution(repository=repository, checkpoint=True)
    facts = content.get(f"{base}/?use", headers=JSON).json()
    (latest,) = content.get(f"{base}/", headers={"Accept": "text/plain"}).text.split()
    assert facts["url"] == f"{content.base_url}{base}/{latest}"
    assert content.get(f"{facts['url']}a").content == b"a"
    info = content.get(f"{base}/{latest}a?info", headers=JSON).json()
    assert info["url"] == f"{facts['url']}a"
    assert content.get(info["url"]).content == b"a"


@pytest.mark.parametrize(("fields", "serves"), [({}, "nothing yet"), ({"repository": True}, None)])
def test_use_of_distribution_without_publication(content, orm, fields, serves):
    if fields:
        version = orm.version({"a": b"a"})
        fields = {"repository": version.repository}
        serves = f"version 1 of {version.repository.name}"
    base = orm.distribution(**fields)
    assert content.get(f"{base}/?use", headers=JSON).json()["serves"] == serves


def test_size_is_unknown_while_a_file_is_not_saved(content, orm):
    version = orm.version({"on-demand": b"123456789"})
    base = orm.distribution(from_publication=False, repository_version=version)
    file = ContentArtifact.objects.get(content__in=version.content)
    artifact = file.artifact
    ContentArtifact.objects.filter(pk=file.pk).update(artifact=None)
    assert content.get(f"{base}/?use", headers=JSON).json()["size"] is None
    ContentArtifact.objects.filter(pk=file.pk).update(artifact=artifact)
    assert content.get(f"{base}/?use", headers=JSON).json()["size"] == 9


def test_size_of_a_large_version_is_not_read(version, monkeypatch):
    monkeypatch.setattr(use_page, "MAX_SIZED", 1)
    monkeypatch.setattr(use_page, "_size", None)  # not called
    use_page._amounts.pop(version.pk, None)
    assert use_page._amount(version) == {"content": {"file.file": 2}, "size": None}
    use_page._amounts.clear()


def test_amount_of_a_version_is_read_once(version, django_queries):
    use_page._amounts.pop(version.pk, None)
    use_page._amount(version)
    with django_queries() as queries:
        assert use_page._amount(version)["size"] == 6
    assert not queries.captured_queries


@pytest.fixture
def django_queries():
    from django.test.utils import CaptureQueriesContext

    return lambda: CaptureQueriesContext(connection)


def test_index_links_to_use_and_container_rows_have_the_command(content, orm):
    prefix = orm.unique()
    orm.distribution(f"{prefix}/é")
    types = {"image": "container.container", "hub": "container.pull-through"}
    made = {orm.distribution(f"{prefix}/{path}"): types[path] for path in types}
    for path, pulp_type in made.items():
        Distribution.objects.filter(base_path=path).update(pulp_type=pulp_type)
    answer = content.get(f"{prefix}/", headers=BROWSER)
    Distribution.objects.filter(base_path__in=made).update(pulp_type="file.file")
    page = page_of(answer)
    (link,) = [href for href in page.links if href.endswith("?use")]
    assert link == f"{PREFIX}{prefix}/{quote('é')}/?use"
    host = httpx.URL(str(content.base_url)).netloc.decode()
    assert f"podman pull {host}/{prefix}/image:TAG" in page.text
    assert f"podman pull {host}/{prefix}/hub/IMAGE:TAG" in page.text
    names = [attributes.get("aria-label") for tag, attributes in page.tags if tag == "a"]
    assert any(name and name.startswith("How to use ") for name in names)


def test_digest_of_index_html_is_of_the_file(content, own_root):
    line = content.get(f"{own_root}/index.html?checksum=sha256").text
    assert line.split() == [hashlib.sha256(INDEX).hexdigest(), "index.html"]


HOSTILE_HOSTS = ["$(reboot)", "a;reboot", "a&reboot&", "a'b", "*(reboot)", "a!b=c"]


@pytest.fixture(scope="module")
def without_origin(instance) -> Iterator[Server]:
    """A server whose external URLs are those of the request."""
    with serving(instance, PULP_CONTENT_ORIGIN="@none") as server:
        yield server


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_use_percent_encodes_a_host_with_characters_of_shells(without_origin, base, host):
    for accept in FORMS:
        headers = accept | {"Host": host}
        answer = httpx.get(f"{without_origin.content_url}{base}/?use", headers=headers)
        assert answer.status_code == 200
        assert host not in answer.text and html.escape(host) not in answer.text
        assert f"http://{quote(host)}/pulp/content/{base}/" in answer.text


@pytest.mark.parametrize("host", ["a b", 'a"b', "a`b`", "a|b", "a>b", "a\\b", "a#b", "a{b}", "a@b"])
def test_use_refuses_an_invalid_host(content, base, host):
    assert content.get(f"{base}/?use", headers={"Host": host}).status_code == 400


def test_use_ignores_hosts_that_a_client_claims_to_be_forwarded(without_origin, base):
    headers = {"Forwarded": "host=evil.invalid;proto=https"}
    for name in ("X-Forwarded-Host", "X-Forwarded-Server", "X-Host", "X-Original-Host"):
        headers[name] = "evil.invalid"
    answer = httpx.get(f"{without_origin.content_url}{base}/?use", headers=headers)
    assert answer.status_code == 200 and "evil" not in answer.text


@pytest.mark.parametrize(
    ("forwarded", "host"),
    [
        ("pulp.example", "pulp.example"),
        ("pulp.example:8443, 10.0.0.1", "pulp.example:8443"),
        ("$(reboot)", "%24%28reboot%29"),
        ("$(reboot)/", "inner.example"),
        ("", "inner.example"),
        (", 10.0.0.1", "inner.example"),
        ("a@b", "inner.example"),
        ("https://pulp.example", "inner.example"),
        ("[", "inner.example"),
        ("[abc]", "[abc]"),
        ("a" * 1025, "inner.example"),
        ("[::1]:8443", "[::1]:8443"),
    ],
)
def test_use_has_the_forwarded_host_where_django_believes_it(app, base, forwarded, host):
    headers = JSON | {"Host": "inner.example", "X-Forwarded-Host": forwarded}
    with override_settings(CONTENT_ORIGIN=None, USE_X_FORWARDED_HOST=True):
        answer = get(app, f"{PREFIX}{base}/?use", headers)
    assert answer.json()["url"] == f"http://{host}{PREFIX}{base}/"


@pytest.mark.parametrize("accept", FORMS, ids=lambda each: each["Accept"])
def test_use_with_a_hostile_query_is_escaped_and_not_compressed(content, base, accept):
    markup = '"><script>alert(1)</script>'
    for query in (f"use&q={'q' * 7000}", f"use&{markup}", f"use&q=%00%0d%0aX-Evil:1{markup}"):
        for method in ("GET", "HEAD"):
            answer = content.request(method, f"{base}/?{query}", headers=accept)
            assert answer.status_code == 200
            assert "<script>alert" not in answer.text
            assert "X-Evil" not in answer.headers
            assert answer.headers.get("Content-Encoding") is None
            assert bool(answer.text) == (method == "GET")


def test_use_page_escapes_a_hostile_name(content, orm):
    name = "<script>alert(1)</script>\u202e\x1b[2J\n[evil]\nbaseurl=http://evil.invalid/"
    hostile = orm.distribution(publication=orm.publication({"a": b"a"}))
    Distribution.objects.filter(base_path=hostile).update(name=name)
    page = content.get(f"{hostile}/?use", headers=BROWSER).text
    assert "<script>alert" not in page
    text = content.get(f"{hostile}/?use").text
    assert "\x1b" not in text and "evil" not in text
    assert content.get(f"{hostile}/?use", headers=JSON).json()["name"] == name
