"""HEAD of pages, checkpoint lists as pages, and error pages with the nearest directory above."""

import re
from collections.abc import Callable, Iterator
from functools import partial

import httpx
import pytest
from django.conf import settings

from pulpcore.app.models import Publication, RBACContentGuard
from pulpcore.content_star.listings.pagination import make_cursor
from tests.functional.test_pages import BROWSER, PREFIX, page_of
from tests.support.instance import wait_until

FORMS = {
    "page": BROWSER,
    "json": {"Accept": "application/json"},
    "text": {"Accept": "text/plain"},
    "list": {"Accept": "*/*"},
}
QUERIES = [
    "",
    "sort=color",
    "sort=size",
    "order=up",
    "order=desc",
    "cursor=x",
    f"cursor={make_cursor('a')}",
    f"sort=size&cursor={make_cursor('no entry')}",
    f"cursor={make_cursor('[]')}",
    "q=" + "x" * 1000,
    "q=%00",
    "q=nothing-like-it",
    "limit=x",
    "info",
    "checksum=sha256",
    "checksum=crc32",
    "use",
    "list",
    "list&sort=color",
]
# Those of the body, which HEAD may omit, and of the moment.
OMITTED = {"content-length", "etag", "transfer-encoding", "date", "correlation-id"}


@pytest.fixture(scope="module")
def base(module_orm) -> str:
    version = module_orm.version({"a.txt": b"1", "sub/deep/b.txt": b"22"})
    return module_orm.distribution(
        f"{module_orm.unique()}/tree", from_publication=False, repository_version=version
    )


@pytest.fixture(scope="module")
def checkpoints(module_orm) -> tuple[str, list[str]]:
    """The base path of a checkpoint distribution, and its two checkpoints, oldest first."""
    version = module_orm.version({"a.txt": b"1", "sub/b.txt": b"22"})
    times = ("20260101T000000Z", "20260201T000000Z")
    for time in times:
        made = module_orm.publication({}, version)
        moment = f"{time[:4]}-{time[4:6]}-{time[6:8]}T00:00:00Z"
        Publication.objects.filter(pk=made.pk).update(checkpoint=True, pulp_created=moment)
    base = module_orm.distribution(repository=version.repository, checkpoint=True)
    return base, [f"{time}/" for time in times]


def facets(answer: httpx.Response) -> tuple[int, dict[str, str]]:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return answer.status_code, {name: headers[name] for name in headers.keys() - OMITTED}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "path",
    [
        "",
        "{base}/",
        "{base}/sub/",
        "{base}/gone/",
        "{base}/a.txt",
        "{checkpoints}/",
        "{checkpoints}/20260101T000000Z/",
        "{checkpoints}/20260101T000000Z/gone",
        "nothing/",
    ],
)
def test_head_has_status_and_headers_of_get(content, base, checkpoints, path, form):
    path = path.format(base=base, checkpoints=checkpoints[0])
    seen = set()
    for query in QUERIES:
        got, head = (
            content.request(method, f"{path}?{query}", headers=FORMS[form])
            for method in ("GET", "HEAD")
        )
        assert facets(head) == facets(got), query
        assert not head.content
        seen.add(got.status_code)
    assert seen & {400, 404}, "no query is invalid"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("sort=color", 400),
        ("order=up", 400),
        ("cursor=x", 400),
        ("q=%00", 400),
        ("q=" + "x" * 1000, 400),
        ("info", 400),
        ("sort=size", 200),
    ],
)
def test_invalid_query_of_checkpoint_page_returns_400(content, checkpoints, query, status):
    base, _ = checkpoints
    assert content.get(f"{base}/?{query}", headers=BROWSER).status_code == status


def test_checkpoint_page_sort_filter_and_cursor(content, checkpoints):
    base, times = checkpoints

    def listed(query: str) -> list[str]:
        return page_of(content.get(f"{base}/?{query}", headers=BROWSER)).names()

    assert listed("") == times
    assert listed("order=desc") == listed("sort=date&order=desc") == times[::-1]
    assert listed("q=20260201") == times[1:]
    assert listed(f"cursor={make_cursor(times[0])}") == times[1:]
    page = page_of(content.get(f"{base}/", headers=BROWSER))
    assert f"{content.base_url}{base}/{times[1]}" in page.text, "how to use the latest"
    assert content.get(f"{base}/", headers={"Accept": "text/plain"}).text.split() == times


@pytest.fixture(scope="module")
def tree(module_orm) -> Iterator[str]:
    """A segment with a distribution below it, a hidden one, and a guarded one."""
    top, version = module_orm.unique(), module_orm.version({"a/b/c.txt": b"1"})
    fields = {"from_publication": False, "repository_version": version}
    module_orm.distribution(f"{top}/visible/x", **fields)
    module_orm.distribution(f"{top}/secret/hidden", hidden=True, **fields)
    guard = module_orm.guard(RBACContentGuard)
    module_orm.distribution(f"{top}/guarded/x", content_guard=guard, **fields)
    module_orm.distribution(f"{top}/empty/x")
    return top


def linking_to(above: str, get: Callable[[], httpx.Response]) -> httpx.Response:
    """Get a 404 until it links to `above`: where the database is slow, it links to the index."""

    answers: list[httpx.Response] = []

    def links() -> bool:
        answers.append(get())
        assert answers[-1].status_code == 404
        return f'<p>Go to <a href="{above}">' in answers[-1].text

    wait_until(links, 30)
    return answers[-1]


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        # No distribution: the index above that has some.
        ("nothing/at/all", ""),
        ("nothing", ""),
        ("{top}/gone", "{top}/"),
        ("{top}/gone/or/not/", "{top}/"),
        ("{top}/visible/gone/x", "{top}/visible/"),
        # Hidden distributions are not named, nor indexes of such alone.
        ("{top}/secret/other/x", "{top}/"),
        ("{top}/secret/", "{top}/"),
        # A distribution: its deepest directory.
        ("{top}/visible/x/gone", "{top}/visible/x/"),
        ("{top}/visible/x/gone/deeper/", "{top}/visible/x/"),
        ("{top}/visible/x/a/gone", "{top}/visible/x/a/"),
        ("{top}/visible/x/a/b/gone/?info", "{top}/visible/x/a/b/"),
        ("{top}/visible/x/a/b/c.txt/gone", "{top}/visible/x/a/b/"),
        # One without content: the index above.
        ("{top}/empty/x/gone", "{top}/empty/"),
        ("{top}/empty/x/", "{top}/empty/"),
        ("{checkpoints}/20260101T000000Z/sub/gone", "{checkpoints}/20260101T000000Z/sub/"),
        ("{checkpoints}/20260101T000000Z/gone/x", "{checkpoints}/20260101T000000Z/"),
        ("{checkpoints}/no-time/x", "{checkpoints}/"),
        ("{checkpoints}/20200101T000000Z/", "{checkpoints}/"),
    ],
)
def test_page_of_404_links_to_the_nearest_directory(content, tree, checkpoints, path, nearest):
    names = {"top": tree, "checkpoints": checkpoints[0]}
    for _ in range(2):  # the second time, the 404 is cached
        above = f"{PREFIX}{nearest.format(**names)}"
        get = partial(content.get, path.format(**names), headers=BROWSER)
        page = page_of(linking_to(above, get))
        ours = [href for href in page.links if href.startswith(PREFIX)]
        assert [href for href in ours if not above.startswith(href)] == []
        assert all(
            content.get(href.removeprefix(PREFIX), headers=BROWSER).status_code == 200
            for href in ours
        )


@pytest.mark.parametrize(
    ("path", "linked", "rest"),
    [
        ("{top}/visible/x/gone/or/not", ["{top}", "visible", "x"], ["gone", "or", "not"]),
        ("{top}/visible/x/a/" + 30 * "z/", [], ["…", *20 * "z"]),
        ("nothing/at/all", [], ["nothing", "at", "all"]),
    ],
)
def test_breadcrumbs_of_404_have_the_whole_path(content, tree, path, linked, rest):
    linked = [each.format(top=tree) for each in linked]
    nearest = f"{tree}/visible/x/a/" if "z" in rest else "".join(f"{each}/" for each in linked)
    get = partial(content.get, path.format(top=tree), headers=BROWSER)
    text = linking_to(f"{PREFIX}{nearest}", get).text
    crumbs = re.findall(r"<li>(?:<(a)\b[^>]*>|<span[^>]*>)?([^<]*)", text)
    assert [name for _, name in crumbs] == ["Content", *linked, *rest]
    assert [name for link, name in crumbs if link] == ["Content", *linked]


def test_page_of_404_does_not_name_guarded_ones_that_the_index_hides(app, tree):
    from tests.support.asgi import get

    earlier = settings.HIDE_GUARDED_DISTRIBUTIONS
    settings.HIDE_GUARDED_DISTRIBUTIONS = True
    try:
        path = f"{PREFIX}{tree}/guarded/gone"
        linking_to(f"{PREFIX}{tree}/", partial(get, app, path, BROWSER))
    finally:
        settings.HIDE_GUARDED_DISTRIBUTIONS = earlier


def test_page_of_401_links_to_the_index_alone(content, pulp, tree):
    answer = content.get(f"{tree}/guarded/x/a/", headers=BROWSER)
    assert answer.status_code == 401
    links = [href for href in page_of(answer).links if href.startswith(PREFIX)]
    assert set(links) == {PREFIX}
    assert re.findall(r"<li>(\w[^<]*)</li>", answer.text) == [tree, "guarded", "x"]
    known = partial(content.get, f"{tree}/guarded/x/a/gone", headers=BROWSER, auth=pulp.auth)
    linking_to(f"{PREFIX}{tree}/guarded/x/a/", known)


def test_text_of_404_is_the_same_for_programs(content, tree):
    for accept in ("*/*", "text/plain", "application/json"):
        answer = content.get(f"{tree}/visible/x/a/gone", headers={"Accept": accept})
        assert answer.status_code == 404
        assert PREFIX not in answer.text
