"""Facts about a file: the page, JSON or text of `?info`, and the digest of `?checksum=sha256`."""

from collections.abc import Mapping
from shlex import quote as shell_quote
from typing import NotRequired, TypedDict
from urllib.parse import quote, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pulpcore.content_star.listings.facts_query import query_without_facts
from pulpcore.content_star.listings.html import size_text
from pulpcore.content_star.listings.json import rfc_3339
from pulpcore.content_star.listings.negotiation import preferred_form, prefers_json
from pulpcore.content_star.listings.page import page_response
from pulpcore.content_star.listings.site import render_page
from pulpcore.content_star.resolve.content import ContentSource, ResolvedFile
from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from pulpcore.content_star.responses.text import text_response
from pulpcore.plugin.models import Artifact, ContentArtifact, RemoteArtifact

ALGORITHMS = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")

# Fields of content models that name a package.
_FIELDS = ("name", "epoch", "version", "release", "arch", "architecture", "summary")

# Labels of facts that differ from their keys in JSON.
_LABELS = {"type": "Media type", "content": "Content type"}


class FileInfo(TypedDict):
    """Facts about a file, as far as they are known, and about the package that it is."""

    name: str
    size: int | None
    digests: dict[str, str]
    url: str
    type: str
    added: NotRequired[str]
    content: NotRequired[str]
    package: NotRequired[str]
    epoch: NotRequired[str]
    version: NotRequired[str]
    release: NotRequired[str]
    arch: NotRequired[str]
    architecture: NotRequired[str]
    summary: NotRequired[str]
    repository: NotRequired[str]
    publication_of: NotRequired[str]
    storage: str


class Checksum(TypedDict):
    """A digest of a file."""

    name: str
    algorithm: str
    digest: str


class FileFacts:
    """Facts about a file of a source, from the database. Blocks."""

    def __init__(self, found: ResolvedFile, source: ContentSource, path: str, url: str) -> None:
        """`path` is below the distribution; `url` is that of the file."""
        self.found = found
        self.source = source
        self.name = path.rpartition("/")[2]
        self.url = url
        self.file: ContentArtifact = found.content_artifact
        self.artifact: Artifact | None = self.file.artifact
        self.remote: RemoteArtifact | None = (
            None
            if self.artifact
            else self.file.remoteartifact_set.select_related("remote").order_by("pk").first()
        )

    @property
    def size(self) -> int | None:
        """Bytes, as far as they are known."""
        row = self.artifact or self.remote
        return None if row is None else row.size

    def digests(self) -> dict[str, str]:
        """Return the digests that are known, by algorithm."""
        row = self.artifact or self.remote
        known = {name: getattr(row, name, None) for name in ALGORITHMS}
        return {name: digest for name, digest in known.items() if digest}

    def facts(self, content_type: str) -> dict[str, str]:
        """Return facts by their keys in JSON, without credentials."""
        source = self.source
        facts = {"type": content_type}
        if self.found.last_modified:
            facts["added"] = rfc_3339(self.found.last_modified)
        facts |= self._content()
        if source.version is not None:
            number, name = source.version.number, source.version.repository.name
            kind = "publication_of" if self.found.is_published else "repository"
            facts[kind] = f"{name}, version {number}"
        facts["storage"] = self._storage()
        return facts

    def labelled_facts(self, content_type: str) -> dict[str, str]:
        """Return size and facts by their labels on the page."""
        facts = self.facts(content_type)
        if moment := self.found.last_modified:
            facts["added"] = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
        size = {} if self.size is None else {"Size": f"{self.size:,} bytes"}
        return size | {
            _LABELS.get(key, key.replace("_", " ").capitalize()): facts[key] for key in facts
        }

    def _content(self) -> dict[str, str]:
        if self.file.content is None:
            return {}
        content = self.file.content.cast()
        facts = {"content": content.pulp_type}
        for name in _FIELDS:
            value = getattr(content, name, None)
            if isinstance(value, str | int) and value != "":
                # In JSON, `name` is that of the file.
                facts["package" if name == "name" else name] = str(value)
        return facts

    def _storage(self) -> str:
        if self.artifact is not None:
            return "saved"
        if self.remote is None:
            return "neither saved nor at a remote"
        host = _host(self.remote.url)
        return f"remote {self.remote.remote.name}" + (f" ({host})" if host else "")


def _host(url: str) -> str:
    """Return the host of a URL, or an empty string; anything may be stored as a URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def file_response(
    request: Request, facts: FileFacts, query: tuple[str, str], content_type: str
) -> Response:
    """Return the page, JSON, text or digest that `query` (see `facts_query`) asks for.

    Programs that accept anything get text, as those that prefer it.

    Raises `HTTPException`: 400 for an unknown algorithm, 404 for an unknown digest.
    """
    kind, algorithm = query
    if kind == "checksum":
        return _checksum(request, facts, algorithm)
    match preferred_form(request):
        case "json":
            return _json(_info(facts, content_type))
        case "page":
            return _page(request, facts, content_type)
    text = _text(facts, content_type).encode()
    return text_response(request, text, "text/plain", may_compress=False)


def _info(facts: FileFacts, content_type: str) -> Mapping[str, object]:
    known = facts.facts(content_type)
    info: FileInfo = {
        "name": facts.name,
        "size": facts.size,
        "digests": facts.digests(),
        "url": facts.url,
        "type": known["type"],
        "storage": known["storage"],
    }
    return info | known


def _text(facts: FileFacts, content_type: str) -> str:
    """Return a line for each fact, without characters that terminals interpret."""
    known = {"Name": facts.name, "URL": facts.url} | facts.labelled_facts(content_type)
    rows = known | facts.digests()
    return "".join(f"{name}: {_printable(value)}\n" for name, value in rows.items())


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


def _page(request: Request, facts: FileFacts, content_type: str) -> Response:
    context = {
        "title": facts.name,
        "href": quote(request.scope["path"]) + query_without_facts(request.scope),
        "size": facts.size,
        "size_text": None if facts.size is None else size_text(facts.size),
        "facts": list(facts.labelled_facts(content_type).items()),
        "digests": list(facts.digests().items()),
        "commands": _commands(facts, query_without_facts(request.scope)),
    }
    return page_response(request, render_page(request, "file.html", context))


def _commands(facts: FileFacts, query: str) -> str:
    """Return commands that fetch the file, with the rest of the query, and verify it."""
    # A name that is only a hyphen means standard input and output.
    name = f"./{facts.name}" if facts.name.startswith("-") else facts.name
    # The file may be a redirect to the object storage.
    commands = f"curl -fLo {shell_quote(name)} {shell_quote(facts.url + query)}\n"
    if digest := facts.digests().get("sha256"):
        line = _line(digest, name)
        # Some shells' echo interprets backslashes.
        echo = "printf '%s\\n'" if "\\" in line else "echo"
        commands += f"{echo} {shell_quote(line)} | sha256sum -c\n"
    return commands


def _checksum(request: Request, facts: FileFacts, algorithm: str) -> Response:
    if algorithm not in ALGORITHMS:
        raise HTTPException(
            400, f"The query parameter 'checksum' must be one of: {', '.join(ALGORITHMS)}."
        )
    digest = facts.digests().get(algorithm)
    if digest is None:
        raise HTTPException(404, f"No {algorithm} digest of the file is known.")
    if prefers_json(request):
        found: Checksum = {"name": facts.name, "algorithm": algorithm, "digest": digest}
        return _json(found)
    line = f"{_line(digest, facts.name)}\n"
    return text_response(request, line.encode(), "text/plain", may_compress=False)


def _line(digest: str, name: str) -> str:
    """Return a line as `sha256sum` does: it begins with a backslash if the name is escaped."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "" if escaped == name else "\\"
    return f"{mark}{digest}  {escaped}"


def _json(facts: Mapping[str, object]) -> Response:
    return JSONResponse(facts, headers=dict(SECURITY_HEADERS))
