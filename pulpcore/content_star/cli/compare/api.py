"""Paths of distributions, from Pulp's REST API and the listings of the new content app."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urljoin

import aiohttp
from yarl import URL

from pulpcore.content_star.cli.compare.client import Access, RateLimiter, Server, read_json
from pulpcore.content_star.cli.compare.errors import CannotCompare
from pulpcore.content_star.cli.compare.exchange import Request
from pulpcore.content_star.cli.compare.sources import Item

PAGE = 100
_METADATA = (
    *("repodata", "dists", "simple", ".well-known", "v2", "specs", "api", "packages", "modules"),
    *("PULP_MANIFEST", "Release", "InRelease", "Packages", "Sources", "config", "index"),
)
"""Beginnings of names of metadata of Pulp's plugins: these are asked for before other files."""

MAX_DIRECTORIES = 10
"""Directories of a distribution whose listing is compared, unless all are."""

_JSON = {"Accept": "application/json"}


@dataclass(frozen=True)
class Sample:
    """How much of each distribution is compared."""

    seed: int
    files: int
    everything: bool


class Api:
    """Pulp's REST API, read with GET alone."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, limiter: RateLimiter, access: Access
    ) -> None:
        self.url = url.rstrip("/")
        self._origin = URL(self.url).origin()
        self._session = session
        self._limiter = limiter
        self._headers = {}
        if access.username:
            self._headers["Authorization"] = access.authorization

    async def get(self, path: str) -> Any:
        """Return the JSON of a path, None for 404. Raises CannotCompare with the cause."""
        await self._limiter.wait()
        url = URL(urljoin(f"{self.url}/", path), encoded=True)
        if url.origin() != self._origin:  # it would get the password
            raise CannotCompare(
                f"The REST API at {self.url} links to another server: {str(url)!r:.200}"
            )
        try:
            async with self._session.get(url, headers=self._headers) as response:
                if response.status in (401, 403):
                    raise CannotCompare(
                        f"The REST API at {self.url} refuses the credentials ({response.status}): "
                        "check --username and --password."
                    )
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise CannotCompare(
                        f"{str(url)!r:.200} answers {response.status}: name the API with --api."
                    )
                return await read_json(response)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise CannotCompare(f"There is no REST API of Pulp at {self.url}: {error}") from error

    async def pages(self, path: str) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the objects of a list, page by page."""
        separator = "&" if "?" in path else "?"
        offset = 0
        while True:
            page = await self.get(f"{path}{separator}limit={PAGE}&offset={offset}")
            try:
                results, more = page["results"], page["next"]
            except (KeyError, TypeError) as error:
                raise CannotCompare(f"{self.url}{path} is not a list of Pulp's API.") from error
            for result in results:
                yield result
            if not more:
                return
            offset += PAGE


class ApiSource:
    """All distributions that the user may see: root, listings, metadata and a sample of files."""

    def __init__(self, api: Api, server: Server, sample: Sample) -> None:
        self.skipped: Counter[str] = Counter()
        self.total = 0
        self.done = 0
        self._api = api
        self._server = server
        self._sample = sample

    async def items(self) -> AsyncIterator[Item]:
        """Yield the items of one distribution after the other. Raises CannotCompare."""
        try:
            async for item in self._items():
                yield item
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CannotCompare(
                f"The REST API at {self._api.url}, or a listing, has other JSON than Pulp's: "
                f"{error!r:.200}"
            ) from error

    async def _items(self) -> AsyncIterator[Item]:
        roots = [root async for root in self._api_roots()]
        for root in roots:  # before anything is compared: credentials may be refused
            first = await self._api.get(f"{root.path}distributions/?limit=1&fields=pulp_href")
            self.total += int(first["count"])
        yield Item(Request(""))
        for root in roots:
            async for distribution in self._api.pages(
                f"{root.path}distributions/?ordering=pulp_id"
            ):
                base = f"{root.prefix}{distribution['base_path']}/"
                yield Item(Request(_quoted(base)[:-1]))
                async for target in self._targets(_quoted(base), distribution):
                    yield Item(Request(target))
                self.done += 1

    async def _api_roots(self) -> AsyncIterator["_Root"]:
        """Yield the API of each domain, or the only one."""
        status = await self._api.get("/pulp/api/v3/status/")
        if not isinstance(status, dict) or "versions" not in status:
            raise CannotCompare(f"There is no REST API of Pulp at {self._api.url}.")
        if not status.get("domain_enabled"):
            yield _Root("/pulp/api/v3/", "")
            return
        async for domain in self._api.pages("/pulp/default/api/v3/domains/"):
            yield _Root(f"/pulp/{domain['name']}/api/v3/", f"{domain['name']}/")

    async def _targets(self, base: str, distribution: Mapping[str, Any]) -> AsyncIterator[str]:
        """Yield the paths of a distribution that are compared, each once."""
        if self._sample.everything:
            async for target in self._walk_all(base):
                yield target
            return
        chosen = random.Random(f"{self._sample.seed} {base}")  # noqa: S311 - a repeatable sample
        seen: set[str] = set()
        async for target in self._walk_some(base, chosen):
            seen.add(target)
            yield target
        async for path in self._content_paths(distribution, chosen):
            target = base + _quoted(path)
            for each in (target, target.rpartition("/")[0] + "/"):
                if each not in seen and len(seen) < 4 * (self._sample.files + MAX_DIRECTORIES):
                    seen.add(each)
                    yield each

    async def _walk_some(self, base: str, chosen: random.Random) -> AsyncIterator[str]:
        """Yield directories and files, metadata first, as far as the sample goes."""
        directories, files = [base], 0
        for _ in range(MAX_DIRECTORIES):
            if not directories:
                return
            directory = directories.pop(0)
            yield directory
            entries = [entry async for entry in self._entries(directory, pages=1)]
            chosen.shuffle(entries)
            entries.sort(key=lambda entry: not _is_metadata(entry))
            below = [directory + entry for entry in entries if entry.endswith("/")]
            directories += below[:MAX_DIRECTORIES]
            for entry in entries:
                if not entry.endswith("/") and files < self._sample.files:
                    files += 1
                    yield directory + entry

    async def _walk_all(self, base: str) -> AsyncIterator[str]:
        """Yield all directories and files below one, depth first."""
        yield base
        directories = []
        async for entry in self._entries(base):
            if entry.endswith("/"):
                directories.append(entry)
            else:
                yield base + entry
        for entry in directories:
            async for target in self._walk_all(base + entry):
                yield target

    async def _entries(self, directory: str, pages: int | None = None) -> AsyncIterator[str]:
        """Yield the links in a directory, page by page; none if it has no listing.

        The links are percent-encoded, those of directories end in a slash.
        """
        query = ""
        while pages is None or pages > 0:
            pages = None if pages is None else pages - 1
            page = await self._server.json(Request(directory + query, headers=_JSON))
            if not isinstance(page, dict) or "entries" not in page:
                return
            for entry in page["entries"]:
                yield str(entry["href"]).removeprefix("./")
            if not page.get("next"):
                return
            query = str(page["next"])

    async def _content_paths(
        self, distribution: Mapping[str, Any], chosen: random.Random
    ) -> AsyncIterator[str]:
        """Yield paths of content units from random places in the repository version."""
        version = await self._version(distribution)
        found = await self._api.get(version) if version else None
        if not found:  # there is none, or it has just been deleted
            return
        for _, summary in sorted(found["content_summary"]["present"].items()):
            left, count = self._sample.files, int(summary["count"])
            block = max(1, left // 4)
            for _ in range(min(4, -(-count // block))):
                offset = chosen.randrange(max(1, count - block + 1))
                separator = "&" if "?" in summary["href"] else "?"
                url = f"{summary['href']}{separator}limit={block}&offset={offset}"
                page = await self._api.get(url)
                for unit in page["results"] if page else ():
                    for path in _paths(unit):
                        yield path

    async def _version(self, distribution: Mapping[str, Any]) -> str | None:
        """Return the repository version that a distribution serves, None if there is none."""
        if publication := distribution.get("publication"):
            found = await self._api.get(publication)
            return found and str(found["repository_version"])
        if version := distribution.get("repository_version"):
            return str(version)
        if repository := distribution.get("repository"):
            found = await self._api.get(repository)
            return found and found.get("latest_version_href")
        return None


@dataclass(frozen=True)
class _Root:
    """The API of a domain, and the beginning of its content's paths."""

    path: str
    prefix: str


def _paths(unit: Mapping[str, Any]) -> Iterator[str]:
    """Yield the relative paths of a content unit, as far as its serializer shows them."""
    artifacts = unit.get("artifacts")
    if isinstance(artifacts, dict):
        yield from map(str, artifacts)
    for name in ("relative_path", "location_href"):
        if isinstance(unit.get(name), str) and unit[name]:
            yield unit[name]
            return


def _quoted(path: str) -> str:
    return quote(path, safe="/~")


def _is_metadata(entry: str) -> bool:
    return unquote(entry).startswith(tuple(_METADATA))
