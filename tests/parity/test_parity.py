"""Parity: the same requests to upstream's content app and to ours, with equal responses."""

from dataclasses import dataclass, field

import httpx
import pytest

from pulpcore.content_star.differences import DIFFERENCES, Difference
from tests.parity.differences import DOCUMENT, document
from tests.support.listing_parser import parse_listing

# Headers of the connection or the single request.
IGNORED = {"date", "server", "correlation-id", "connection"}

# On every response of a distribution; see `FURTHER` and `tests/functional/test_cdn_headers.py`.
IGNORED |= {"surrogate-key", "cache-tag"}

# On every file; see `FURTHER` and `tests/functional/test_compression_and_cors.py`.
IGNORED |= {"repr-digest"}

# On what comes from a remote; see `FURTHER` and `tests/functional/test_on_demand.py`.
IGNORED |= {"cache-status"}


@dataclass(frozen=True)
class Row:
    """A request, and the accepted differences between its responses, separated by semicolons.

    `{names}` are filled in from `values`.
    """

    path: str
    differences: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"

    def accepted_differences(self) -> list[str]:
        return [name for name in self.differences.split("; ") if name]

    def __str__(self) -> str:
        headers = " ".join(f"{name}: {value}" for name, value in self.headers.items())
        return f"{self.method} {self.path[:60]} {headers}".strip()


FILE = "validators; security headers"
ON_DEMAND = "on demand; security headers"
CACHED = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
JSON = {"Accept": "application/json"}
CURL = {"Accept": "*/*"}
OLD = "Fri, 01 Jan 2010 00:00:00 GMT"

ROWS = [
    Row("{published}/a.txt", FILE),
    Row("{published}/a.txt", FILE, method="HEAD"),
    Row("{published}/dir/b.xml.gz", FILE),
    Row("{published}/dir/sub/c", FILE),
    Row("{published}/empty", FILE),
    Row("{published}//a.txt", FILE),
    Row("{published}/co%3Alon/per%25cent%20%C3%A9.rpm", FILE),
    Row("{published}/dir//sub/c", "repeated slashes"),
    Row("/{published}/a.txt", "repeated slashes"),
    Row("{published}/dir//", "repeated slashes"),
    Row("{published}/%2E/a.txt", "dot segments"),
    Row("{through}/a.txt", FILE),
    Row("{through}/meta/data", FILE),
    Row("{version}/a.txt", FILE),
    Row("{version}/co:lon/per%25cent%20é.rpm", FILE),
    Row("{superseded}/a.txt", FILE),
    Row("{superseded}/old.txt", FILE),
    Row("{superseded}/PULP_MANIFEST", FILE),
    Row("{hidden}/a.txt", FILE),
    Row("{unpublished}/a.txt", "error text"),
    Row("{nothing}/a.txt", "error text"),
    Row("{published}/nope", "error text"),
    Row("{published}/dir/nope/", "error text"),
    Row("{published}/a.txt/", "error text"),
    Row("nope/nope", "error text"),
    Row("{top}/nope", "error text"),
    # Directories
    Row("", "listing page"),
    Row("", "HEAD of a listing", method="HEAD"),
    Row("{top}/", "listing page"),
    Row("{top}/deep/", "listing page"),
    Row("{top}/hidden/", "empty partial path"),
    Row("{published}/", "listing page"),
    Row("{published}/", "HEAD of a listing", method="HEAD"),
    Row("{published}/dir/", "listing page"),
    Row("{published}/co%3Alon/", "listing page; percent-encoded links"),
    Row("{through}/", "listing page"),
    Row("{through}/dir/", "listing page"),
    Row("{version}/", "listing page"),
    Row("{version}/dir/sub/", "listing page"),
    Row("{superseded}/", "listing page"),
    Row("{published}/page/", f"{FILE}; JSON of a directory"),
    Row("{page}/", f"{FILE}; JSON of a directory"),
    Row("{page}/d/", f"{FILE}; JSON of a directory"),
    Row("{static}/simple/", "index.html passed through"),
    Row("{published}/", "JSON of a directory", JSON),
    Row("{published}/dir/", "listing page", CURL),
    Row("{top}/", "JSON of a directory", JSON),
    Row("{published}/a.txt", FILE, JSON),
    # Redirects
    Row("{top}", "redirect body"),
    Row("{top}?a=b", "redirect body; redirect query"),
    Row("{published}", "redirect body"),
    Row("{published}?a=b", "redirect body; redirect query"),
    Row("{published}/dir", "redirect body"),
    Row("{published}/page", "redirect body"),
    Row("{version}/dir", "redirect body"),
    Row("{page}/d", "index.html without a slash"),
    # Methods
    Row("{published}/a.txt", "error text; method not allowed", method="POST"),
    Row("{published}/a.txt", "OPTIONS", method="OPTIONS"),
    # Conditions
    Row("{published}/a.txt", "", {"If-None-Match": '"{sha256}"'}),
    Row("{published}/a.txt", "weak comparison", {"If-None-Match": 'W/"{sha256}"'}),
    Row("{published}/a.txt", "validators that clients have", {"If-None-Match": "{old_tag}"}),
    Row("{published}/a.txt", "304", {"If-None-Match": "*"}),
    Row("{published}/a.txt", FILE, {"If-None-Match": '"other"'}),
    Row("{published}/a.txt", "", CACHED),
    Row("{published}/a.txt", FILE, {"If-None-Match": '"other"', **CACHED}),
    Row("{published}/a.txt", FILE, {"If-Modified-Since": OLD}),
    Row("{published}/a.txt", FILE, {"If-Modified-Since": "nonsense"}),
    Row("{published}/a.txt", "412", {"If-Match": '"other"'}),
    Row("{published}/a.txt", "If-Match", {"If-Match": '"{sha256}"'}),
    Row("{published}/a.txt", "412", {"If-Unmodified-Since": OLD}),
    # Ranges
    Row("{published}/a.txt", FILE, {"Range": "bytes=2-4"}),
    Row("{published}/a.txt", FILE, {"Range": "bytes=-3"}),
    Row("{published}/a.txt", FILE, {"Range": "bytes=5-"}),
    Row("{published}/a.txt", FILE, {"Range": "bytes=5-500"}),
    Row("{published}/a.txt", "416", {"Range": "bytes=10-"}),
    Row("{published}/a.txt", "416", {"Range": "bytes=4-2"}),
    Row("{published}/a.txt", "416", {"Range": "bytes=x"}),
    Row("{published}/empty", "416", {"Range": "bytes=0-"}),
    Row("{published}/a.txt", "unknown range unit", {"Range": "items=0-1"}),
    Row("{published}/a.txt", "several ranges", {"Range": "bytes=0-1,4-5"}),
    Row("{published}/a.txt", "If-Range", {"Range": "bytes=0-1", "If-Range": '"other"'}),
    Row("{published}/a.txt", FILE, {"Range": "bytes=0-1", "If-Range": '"{sha256}"'}),
    Row("{published}/a.txt", "HEAD and Range", {"Range": "bytes=0-1"}, method="HEAD"),
    # Guards
    Row("{header}/a.txt", "error text"),
    Row("{header}/a.txt", FILE, {"X-Key": "b3Blbg=="}),
    Row("{header}/a.txt", "error text", {"If-None-Match": "*"}),
    Row("{header}/", "listing page", {"X-Key": "b3Blbg=="}),
    Row("{header}", "error text"),
    Row("{rbac}/a.txt", "credentials missing"),
    Row("{rbac}/a.txt", "credentials missing", method="HEAD"),
    Row("{rbac}/", "credentials missing"),
    Row("{rbac}/a.txt", FILE, {"Authorization": "{basic}"}),
    Row("{rbac}/a.txt", FILE, {"Authorization": "{basic}"}, method="HEAD"),
    Row("{rbac}/", "listing page", {"Authorization": "{basic}"}),
    Row("{rbac}/nope", "error text", {"Authorization": "{basic}"}),
    Row("{rbac}/a.txt", "error text", {"X-CLIENT-CERT": "x"}),
    Row("{rbac}/a.txt", "error text", {"Authorization": "Bearer x"}),
    Row("{rbac}/a.txt", "user name with NUL", {"Authorization": "Basic YQBiOmM="}),
    Row("{header}/a.txt", "error text", {"X-Key": "?"}),
    Row("{header}/a.txt", "undecodable guard header", {"X-Key": "/w=="}),
    Row(
        "{header}/a.txt",
        FILE,
        {"X-Key": "b3Blbg==", "Cookie": "a b=c; $x; =; sessionid=x"},
    ),
    Row("{signed}", "host", {"Host": "a b"}),
    Row("{composite}/a.txt", "credentials missing"),
    Row("{composite}/a.txt", "credentials missing", {"X-Key": "bm8="}),
    Row("{composite}/a.txt", FILE, {"X-Key": "b3Blbg=="}),
    Row("{composite}/a.txt", FILE, {"Authorization": "{basic}"}),
    Row("{x509}/a.txt", "error text"),
    Row("{x509}/a.txt", "error text", {"X-CLIENT-CERT": "x"}),
    Row("{x509}/a.txt", FILE, {"X-CLIENT-CERT": "{certificate}"}),
    Row("{x509}/", "listing page", {"X-CLIENT-CERT": "{certificate}"}),
    Row("{rbac}/a.txt", "error text", {"Authorization": "Basic bm86Ym9keQ=="}),
    # Checkpoints
    Row("{checkpoint}/", "listing page"),
    Row("{checkpoint}", "redirect body"),
    Row("{checkpoint}/{time}", "redirect body"),
    Row("{checkpoint}/{time}/", "listing page"),
    Row("{checkpoint}/{time}/a.txt", FILE),
    Row("{checkpoint}/{time}/nope", "error text"),
    Row("{checkpoint}/{later}/a.txt", "redirect body"),
    Row("{checkpoint}/{later}/a.txt?a=b", "redirect body; redirect query"),
    Row("{checkpoint}/{earlier}/a.txt", "error text"),
    Row("{checkpoint}/29990101T000000Z/a.txt", "error text"),
    Row("{checkpoint}/nonsense/a.txt", "error text"),
    Row("{checkpoint}/nonsense", "invalid checkpoint timestamp"),
    # Pulpcore's own distributions
    Row("{artifact}", "artifacts by id; security headers"),
    Row("{artifact}", "artifacts by id; security headers", method="HEAD"),
    Row("{artifact}", "artifacts by id; security headers", {"Range": "bytes=2-4"}),
    Row("{artifact}0", "error text"),
    Row("{keys}/", "listing page"),
    Row("{keys}/{key}.pub", "security headers"),
    Row("{keys}/0123456789abcdef.pub", "error text"),
    # Probes
    Row("livez", "probes"),
    Row("readyz", "probes"),
    Row("openapi.json", "schema"),
    Row("openapi.yaml", "schema"),
    Row("docs/", "schema"),
    # On demand
    Row("{mirror}/far.txt", ON_DEMAND),
    Row("{mirror}/far.txt", ON_DEMAND, method="HEAD"),
    Row("{mirror}/far.txt", ON_DEMAND, {"Range": "bytes=2-4"}),
    Row("{mirror}/far.txt", "416", {"Range": "bytes=10-"}),
    Row("{mirror}/far.txt", "on demand and conditional", {"If-None-Match": '"{far}"'}),
    Row("{mirror}/gone", "no remote sends it"),
    Row("{mirror}/PULP_MANIFEST", FILE),
    # What is not a path
    Row("%00", "NUL"),
    Row("%ff", "not UTF-8"),
    Row("a/" * 4500, "long paths"),
    Row("../content", "prefix without a slash"),
]


# With domains on, below `<domain>/`.
DOMAIN_ROWS = [
    Row("default/{published}/a.txt", FILE),
    Row("default/", "listing page"),
    Row("default", "redirect body"),
    Row("default?a=b", "redirect body; redirect query"),
    Row("default/{top}", "redirect body"),
    Row("default/{published}/dir", "redirect body"),
    Row("default/{checkpoint}/{later}/a.txt", "redirect body"),
    Row("{domain}/", "listing page"),
    Row("{domain}", "redirect body"),
    Row("{domain}/{inside}/own.txt", FILE),
    Row("{domain}/{inside}/", "listing page"),
    Row("{domain}/{published}/a.txt", "error text"),
    Row("default/{inside}/own.txt", "error text"),
    Row("{published}/a.txt", "error text"),
    Row("nope", "error text"),
    Row("nope/", "error text"),
    Row("nope/nope", "error text"),
    Row("", "error text"),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_parity(instance, upstream, values, row):
    compare(instance.content_url, upstream, values, row)


@pytest.mark.parametrize("row", DOMAIN_ROWS, ids=str)
def test_parity_with_domains(domain_instance, domain_upstream, domain_values, row):
    compare(domain_instance, domain_upstream, domain_values, row)


def compare(our_root: str, their_root: str, values: dict[str, str], row: Row) -> None:
    """Send a request to both servers, and fail on differences that are not accepted."""
    ours = send_row(our_root, row, values)
    theirs = send_row(their_root, row, values)
    check_differences(row, differing_facets(theirs, ours), theirs, ours)


def check_differences(
    row: Row,
    found: set[str],
    theirs: httpx.Response,
    ours: httpx.Response,
    differences: dict[str, Difference] = DIFFERENCES,
) -> None:
    """Fail on `found` facets that the row does not accept, and on accepted ones not found."""
    accepted = {name: differences[name].facets for name in row.accepted_differences()}
    accepted_facets = set().union(*accepted.values())
    # With different statuses, the other facets need not be equal.
    unexpected = set() if "status" in accepted_facets & found else found - accepted_facets
    assert not unexpected, describe(unexpected, theirs, ours)
    unused = [name for name, facet in accepted.items() if not facet & found]
    assert not unused, f"no longer different: {unused}"


def test_parity_shows_every_documented_difference():
    from tests.parity.test_bridge import ROWS as BRIDGE
    from tests.parity.test_cache_header import ROWS as CACHE_HEADER
    from tests.parity.test_pull_through import PLAIN
    from tests.parity.test_pull_through import ROWS as PULL_THROUGH
    from tests.parity.test_storage import ROWS as STORAGE

    rows = ROWS + STORAGE + BRIDGE + PULL_THROUGH + CACHE_HEADER + [PLAIN]
    assert {name for row in rows for name in row.accepted_differences()} == set(DIFFERENCES)


def test_differences_document_is_up_to_date():
    assert DOCUMENT.read_text() == document(), "run: python -m tests.parity.differences"


def send_row(root: str, row: Row, values: dict[str, str]) -> httpx.Response:
    headers = {name: value.format(**values) for name, value in row.headers.items()}
    url = root + row.path.format(**values)
    return httpx.request(row.method, url, headers=headers)


def differing_facets(theirs: httpx.Response, ours: httpx.Response) -> set[str]:
    """Return the names of the facets in which two responses differ: headers, status, body."""
    different = {
        name
        for name in {*theirs.headers, *ours.headers} - IGNORED
        if theirs.headers.get(name) != ours.headers.get(name)
    }
    if theirs.status_code != ours.status_code:
        different.add("status")
    if theirs.content != ours.content:
        different.add("body")
    if "Index of" in theirs.text and parse_listing(theirs.text) != parse_listing(ours.text):
        different.add("listing")
    return different


def describe(names: set[str], theirs: httpx.Response, ours: httpx.Response) -> str:
    lines = [f"upstream {theirs.status_code}, ours {ours.status_code}"]
    for name in sorted(names):
        if name in ("body", "listing"):
            lines.append(f"{name}: {theirs.text[:300]!r} != {ours.text[:300]!r}")
        else:
            lines.append(f"{name}: {theirs.headers.get(name)!r} != {ours.headers.get(name)!r}")
    return "\n".join(lines)
