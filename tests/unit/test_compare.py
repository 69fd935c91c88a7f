"""Parts of `pulp-star compare` that need no server: what counts as intended, and what is kept."""

import json
from pathlib import Path

import pytest

from pulpcore.content_star.cli.compare.comparison import compare, redirect_target
from pulpcore.content_star.cli.compare.exchange import Exchange, Request, Response
from pulpcore.content_star.cli.compare.listing import NAMED_ENTRIES, ListingParser
from pulpcore.content_star.cli.compare.results import MAX_GROUPS, Latencies, Progress, Results
from pulpcore.content_star.cli.compare.shell import curl, masked

SHA = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
OTHER = "0" * 64
URLS = ("http://old/", "http://new/")


def exchange(
    old: tuple[int, dict[str, str]],
    new: tuple[int, dict[str, str]],
    request: Request | None = None,
    **facts: object,
) -> Exchange:
    """Return an exchange of responses with these statuses and headers."""
    responses = [
        Response(status, headers, 10, SHA, None, "bytes") for status, headers in (old, new)
    ]
    return Exchange(request or Request("base/a"), *responses, **facts)  # type: ignore[arg-type]


def explained(found: Exchange) -> dict[str, str]:
    """Return the difference that explains each facet, empty for faults."""
    return {finding.facet: finding.difference for finding in compare(found)}


@pytest.mark.parametrize(
    ("tag", "difference"), [(SHA, "validators"), (OTHER, ""), (f"{SHA}0", ""), (SHA[:-1], "")]
)
def test_etag_is_intended_only_if_it_is_the_sha256(tag: str, difference: str) -> None:
    old, new = {"etag": '"5f-1"'}, {"etag": f'"{tag}"'}
    assert explained(exchange((200, old), (200, new), sha256=SHA)) == {"etag": difference}
    assert explained(exchange((304, old), (304, new), sha256=SHA)) == {
        "etag": "304" if difference else ""
    }


@pytest.mark.parametrize(
    "name", ["content-disposition", "x-content-type-options", "content-security-policy", "etag"]
)
def test_header_that_is_missing_is_a_fault(name: str) -> None:
    assert explained(exchange((200, {name: "x"}), (200, {}))) == {name: ""}


@pytest.mark.parametrize("name", ["content-type", "content-length", "docker-content-digest"])
def test_header_of_a_file_that_differs_is_a_fault(name: str) -> None:
    assert explained(exchange((200, {name: "1"}), (200, {name: "2"}))) == {name: ""}


@pytest.mark.parametrize(
    ("old", "new", "request_"),
    [
        (200, 404, Request("base/a")),
        (200, 304, Request("base/a")),
        (200, 403, Request("base/a")),
        (403, 200, Request("base/a")),
        (404, 200, Request("base/a")),
        (206, 200, Request("base/a", headers={"Range": "bytes=0-1"})),
        (302, 200, Request("base/a")),
        (200, 301, Request("base/a/")),
        (200, 304, Request("base/a", headers={"If-None-Match": f'"{OTHER}"'})),
    ],
)  # fmt: skip
def test_status_without_a_reason_is_a_fault(old: int, new: int, request_: Request) -> None:
    found = exchange((old, {}), (new, {}), request_, sha256=SHA)
    assert explained(found) == {"status": ""}


def test_redirect_to_a_directory_that_exists_must_not_be_404() -> None:
    """A path that is no time of a checkpoint is 404 at once, if it is 404 behind the slash too."""
    old = (301, {"location": "/pulp/content/base/dir/"})
    found = exchange(old, (404, {}), Request("base/dir"), redirected_status=200)
    assert explained(found) == {"status": ""}
    found.redirected_status = 404
    assert explained(found) == {"status": "invalid checkpoint timestamp"}


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://s3/b/a?X-Amz-Signature=1&X-Amz-Date=2&versionId=3", "https://s3/b/a?versionId=3"),
        ("https://x.blob/a?sv=1&se=2&sig=3%3D&rscd=f", "https://x.blob/a"),
        ("https://cdn/a?Expires=1&Signature=2&Key-Pair-Id=3", "https://cdn/a"),
        ("https://storage/a?GoogleAccessId=1&X-Goog-Signature=2", "https://storage/a"),
        ("/pulp/content/base/?a=b", "/pulp/content/base/?a=b"),
    ],
)
def test_redirect_target_has_no_signature(location: str, target: str) -> None:
    assert redirect_target(location) == target


def test_incomplete_responses_are_faults_even_if_both_are() -> None:
    found = exchange((200, {}), (200, {}))
    found.old.broken = found.new.broken = "cut"
    assert explained(found) == {"transfer": ""}


def listing(lines: list[str], chunk: int = 7) -> object:
    parser = ListingParser()
    page = ("<title>Index of /</title>\n" + "\n".join(lines)).encode()
    for start in range(0, len(page), chunk):
        parser.feed(page[start : start + chunk])
    return parser.close()


def row(name: str, href: str = "", rest: str = "") -> str:
    return f'<a href="{href or name}">{name}</a>   {rest}'


def test_listings_are_compared_by_entries() -> None:
    one = [row("a", "./a", "28-Nov-2026 11:00  2 Bytes"), row("b/"), row("per%cent", "per%25cent")]
    other = [row("per%cent", "./per%cent"), row("b/"), row("a", "a", "28-Nov-2026 11:00  2 Bytes")]
    assert listing(one) == listing(other)
    assert listing(['<a href="../">../</a>', *one]) == listing(other)
    for changed in (
        one[1:],
        [*one, row("c")],
        [one[0].replace("2 B", "3 B"), *one[1:]],
        [one[0].replace("11:00", "11:01"), *one[1:]],
        [*one[:2], row("per%cent", "per%cebt")],
        [*one, one[0]],
    ):
        assert listing(one) != listing(changed), changed


def test_large_listings_are_compared_by_a_digest() -> None:
    lines = [row(f"file-{number}") for number in range(NAMED_ENTRIES + 1)]
    one, other = listing(lines, 1 << 16), listing(lines[::-1], 1 << 16)
    assert one == other
    assert one.entries is None  # type: ignore[attr-defined]
    assert one != listing([*lines[:-1], row("another")], 1 << 16)


def test_listings_of_long_names_are_compared_by_a_digest() -> None:
    lines = [row(f"{number}" + "x" * 10_000) for number in range(1000)]
    one = listing(lines, 1 << 16)
    assert one.count == 1000  # type: ignore[attr-defined]
    assert one.entries is None  # type: ignore[attr-defined]
    assert one == listing(lines[::-1], 1 << 16)


def test_page_that_is_no_listing_has_no_entries() -> None:
    parser = ListingParser()
    parser.feed(b"<title>Welcome</title>" + b"x" * 100_000 + b"<title>Index of /</title>")
    assert parser.close() is None


def test_percentiles_are_right_to_5_percent() -> None:
    latencies = Latencies()
    for milliseconds in range(1, 1001):
        latencies.add(milliseconds / 1000)
    for share, expected in ((0.5, 0.5), (0.99, 0.99), (1.0, 1.0)):
        assert latencies.percentile(share) == pytest.approx(expected, rel=0.05)
    assert Latencies().percentile(0.5) is None


def test_results_survive_saving_and_memory_is_bounded() -> None:
    results = Results()
    for number in range(MAX_GROUPS + 50):
        found = exchange((200, {f"x-{number}": "1"}), (200, {}))
        results.record(found, compare(found), URLS)
    assert len(results.faults) == MAX_GROUPS + 1
    assert results.faults["further kinds of differences"].count == 50
    results.skipped["some"] += 2
    loaded = Results.load(json.loads(json.dumps(results.save())))
    assert loaded == results


def test_progress_counts_each_item_once(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "state", "run")
    for number in (1, 0, 4):
        progress.finish(number, f"key {number}")
    assert (progress.position, progress.done, progress.key) == (2, {4}, "key 1")
    progress.save()
    again = Progress(tmp_path / "state", "run")
    assert again.load()
    assert [again.is_done(number) for number in range(6)] == [True, True, False, False, True, False]
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    with pytest.raises(ValueError, match="other servers"):
        Progress(tmp_path / "state", "other").load()


def test_curl_has_no_secret_and_can_be_pasted() -> None:
    request = Request("a/../b%20'c?validate_token=s3cret&n=1", headers={"Range": "bytes=0-1"})
    command = curl(request, "body", "http://h/")
    assert command.startswith("curl -sS --path-as-is -H 'Range: bytes=0-1' ")
    assert command.endswith(" | sha256sum")
    assert "s3cret" not in command
    assert masked(request.target) == "a/../b%20'c?validate_token=***&n=1"
