"""Paths of directories that are patterns, escapes or bounds to SQL."""

from urllib.parse import quote

import pytest

# Names of directories that exist, and of ones that do not, but match them as patterns.
NAMES = {
    "a_b": ["aXb", "a__b", "a%b"],
    "100%": ["100x", "100", "100%%"],
    "%": ["_", "%%", "x"],
    "back\\slash": ["back\\\\slash", "backslash", "back/slash"],
    "it's": ["its", "it''s"],
    "\u202egnp": ["gnp", "png"],
    "\U0001f600": ["\U0001f601", "\ud7ff"],
    "e\u0301": ["\u00e9", "e"],
    "\U0010ffff": ["\uffff", "0"],
    "x" * 200: ["x" * 199, "x" * 201],
}
FORMS = [{}, {"Accept": "text/html"}, {"Accept": "application/json"}, {"Accept": "text/plain"}]


@pytest.fixture(scope="module", params=["publication", "version"])
def base(request, module_orm) -> str:
    files = {f"{name}/file": b"content" for name in NAMES}
    if request.param == "publication":
        return module_orm.distribution(publication=module_orm.publication(files))
    version = module_orm.version(files)
    return module_orm.distribution(from_publication=False, repository_version=version)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_directory_with_a_hostile_name_exists_and_no_similar_one(content, base, name):
    for method in ("GET", "HEAD"):
        for accept in FORMS:
            path = f"{base}/{quote(name)}/"
            assert content.request(method, path, headers=accept).status_code == 200
            for other in NAMES[name]:
                path = f"{base}/{quote(other)}/"
                assert content.request(method, path, headers=accept).status_code == 404
    assert content.get(f"{base}/{quote(name)}").status_code == 301
    assert content.get(f"{base}/{quote(name)}/?info").status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        quote("a" * 7000),
        quote("/".join("a" * 3500)),
        quote("\U0001f600" * 500),
        "%00",
        "a%00b",
        "%ff%fe",
        "%ed%a0%80",
        quote("'; DROP TABLE core_artifact; --"),
        quote("{in_range} %(prefix)s %s {0}"),
    ],
    ids=lambda path: path[:20],
)
def test_hostile_directory_that_does_not_exist_returns_404(content, base, path):
    for slash in ("", "/"):
        for accept in FORMS:
            answer = content.get(f"{base}/{path}{slash}", headers=accept)
            assert answer.status_code in (400, 404)
            assert answer.status_code == 404 or "%" in path
