"""The documentation of the content app; `test_browser.py` looks at it."""

import re

import httpx
import pytest


def test_docs_page_contains_the_document_and_has_etag(content):
    response = content.get("docs/")
    assert response.headers["Content-Type"].startswith("text/html")
    (embedded,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', response.text)
    assert httpx.Response(200, text=embedded).json() == content.get("openapi.json").json()
    again = content.get("docs/", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304


def test_docs_policy_allows_two_scripts_and_no_connection(content):
    policy = content.get("docs/").headers["Content-Security-Policy"]
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert len(re.findall("'sha256-[^']+'", directives["script-src"])) == 2
    assert directives["sandbox"] == "allow-scripts"
    assert "unsafe" not in policy
    assert "http" not in policy


def test_docs_scripts_are_static_files_that_clients_keep(content, instance):
    scripts = re.findall(r'src="(/assets/[^"]+)"', content.get("docs/").text)
    assert len(scripts) == 2
    for script in scripts:
        response = httpx.get(f"{instance.url}{script}")
        assert response.status_code == 200
        assert "immutable" in response.headers["Cache-Control"]


def test_docs_without_slash_redirect(content):
    response = content.get("docs")
    assert (response.status_code, response.headers["Location"]) == (301, "/pulp/content/docs/")


@pytest.mark.parametrize("base_path", ["docs", "docs/below"])
def test_distribution_named_docs_has_precedence(content, orm, base_path):
    version = orm.version({"a.txt": b"content"})
    orm.distribution(base_path, from_publication=False, repository_version=version)
    listing = content.get("docs/", headers={"Accept": "application/json"}).json()
    assert [entry["name"] for entry in listing["entries"]] in (["a.txt"], ["below"])
    assert content.get(f"{base_path}/a.txt").content == b"content"


def test_empty_distribution_named_docs_is_not_replaced_by_the_docs(content, orm):
    orm.distribution("docs", from_publication=False, repository_version=orm.version({}))
    assert content.get("docs/").status_code == 404


def test_domain_named_docs_has_precedence(domains, orm):
    from pulpcore.app.models import Domain

    url = f"{domains.content_url}docs/"
    assert 'id="openapi"' in httpx.get(url).text
    domain = Domain(name="docs", storage_class="pulpcore.app.models.storage.FileSystem")
    domain.storage_settings = {"location": "/nonexistent"}
    domain.save()
    try:
        assert 'id="openapi"' not in httpx.get(url).text
    finally:
        Domain.objects.filter(pk=domain.pk).delete()
