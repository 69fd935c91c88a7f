"""Responses and headers of the document, made from sample responses."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

from pulpcore.content_star.distributions.file_page import Checksum, FileInfo
from pulpcore.content_star.distributions.use_page import HowToUse
from pulpcore.content_star.listings.json import Listing
from pulpcore.content_star.middleware.errors import ErrorBody
from pulpcore.content_star.middleware.health import Readiness
from pulpcore.content_star.schema import samples
from pulpcore.content_star.schema.samples import Sample
from pulpcore.content_star.schema.types import JSON, json_schema
from pulpcore.content_star.server.header_case import header_prefix

TEXT: JSON = {"type": "string"}
BINARY: JSON = {"type": "string", "format": "binary"}

# Descriptions and schemas of headers, by their names in lower case.
HEADERS: dict[str, tuple[str, JSON]] = {
    "accept-ranges": ("Ranges can be requested.", {"const": "bytes"}),
    "access-control-allow-headers": ("Headers of the request that a page may send.", TEXT),
    "access-control-allow-methods": ("Methods that a page of any origin may use.", TEXT),
    "access-control-allow-origin": ("Pages of any origin may read it.", {"const": "*"}),
    "access-control-expose-headers": ("Headers that such pages may read.", TEXT),
    "access-control-max-age": ("Seconds for which this is valid.", {"type": "integer"}),
    "allow": ("Methods of the path.", TEXT),
    "cache-control": ("Directives for caches.", TEXT),
    "cache-status": (
        "`pulp; fwd=miss` on files that come from a remote, `pulp; hit` with a negative `ttl` on "
        "stale responses (RFC 9211).",
        TEXT,
    ),
    "cache-tag": ("Surrogate keys, for Cloudflare and Akamai.", TEXT),
    "content-disposition": ("Name of the file to save.", TEXT),
    "content-encoding": ("Content coding of text.", {"const": "gzip"}),
    "content-language": ("As the remote sends it.", TEXT),
    "content-length": ("Bytes of the body.", {"type": "integer", "minimum": 0}),
    "content-range": ("Range of the body, or the size of the file (416).", {"pattern": "^bytes "}),
    "content-security-policy": ("Sandbox: files share the origin of Pulp's API.", TEXT),
    "correlation-id": ("Correlation id of the request, in the lines of the log.", TEXT),
    "docker-content-digest": ("As the remote sends it.", TEXT),
    "docker-distribution-api-version": ("As the remote sends it.", TEXT),
    "etag": ("Entity tag; of files the sha256.", {"pattern": '^(W/)?"[!#-~]*"$'}),
    "last-modified": ("Time of publication, or of addition to the repository.", TEXT),
    "link": ("As the remote sends it.", TEXT),
    "location": ("URL of the redirect.", {"format": "uri-reference"}),
    "repr-digest": ("sha256 of the file (RFC 9530).", {"pattern": "^sha-256=:"}),
    "retry-after": ("Seconds after which to try again.", {"type": "integer"}),
    "surrogate-key": ("Keys by which a CDN can purge the response.", TEXT),
    "vary": ("Headers of the request that the response depends on.", TEXT),
    "www-authenticate": ("Challenge of the first authentication class.", TEXT),
    "x-content-type-options": ("Browsers do not guess the type.", {"const": "nosniff"}),
    "x-pulp-artifact-size": ("Bytes of the whole file.", {"type": "integer", "minimum": 0}),
    "x-pulp-cache": ("Whether the response was cached.", {"enum": ["HIT", "MISS"]}),
    "x-pypi-last-serial": ("As the remote sends it.", TEXT),
}

SCHEMAS = {
    "ContentChecksum": Checksum,
    "ContentError": ErrorBody,
    "ContentFileInfo": FileInfo,
    "ContentHowToUse": HowToUse,
    "ContentListing": Listing,
    "ContentReadiness": Readiness,
}

DESCRIPTIONS = {
    206: "Part of the file, or several parts.",
    301: "The same URL with a slash, or normalized.",
    302: "The file is in the object storage.",
    304: "Not modified.",
    412: "The condition does not hold.",
    416: "The range is beyond the end of the file.",
}

# Named, as generators of clients name a schema inside of a response `InlineObject`, as others.
UNIONS: dict[str, JSON] = {
    "ContentFile": {
        "anyOf": [
            {"$ref": "#/components/schemas/ContentFileInfo"},
            {"$ref": "#/components/schemas/ContentChecksum"},
            {"description": "The file, if it is JSON."},
        ]
    },
    "ContentRoot": {
        "anyOf": [
            {"$ref": "#/components/schemas/ContentListing"},
            {"$ref": "#/components/schemas/ContentHowToUse"},
        ]
    },
}


def components() -> JSON:
    """Return the reusable schemas, headers and responses. Runs an event loop."""
    responses = asyncio.run(_responses())
    used = sorted({name for response in responses.values() for name in response["headers"]})
    return {
        "schemas": {name: json_schema(hint) for name, hint in SCHEMAS.items()} | UNIONS,
        "headers": {name: _header(name.lower()) for name in used},
        "responses": responses,
    }


def reference(response: str | int, method: str = "GET") -> JSON:
    """Return a reference to a response, by its name or by its status, to a method."""
    if isinstance(response, int):
        return {"$ref": f"#/components/responses/{_name(response)}"}
    return {"$ref": f"#/components/responses/{response}{'Head' if method == 'HEAD' else ''}"}


async def _responses() -> dict[str, JSON]:
    """Return the responses: those with one meaning by the phrase of their status, others by name.

    The names are: Page, File, Root, Directory, Options, Live, Ready, NotReady, Document,
    DocumentYAML; and of HEAD, without content, PageHead and so on.
    """
    file, listing = await samples.file_samples(), await samples.listing_samples()
    probe, document = await samples.probe_samples(), await samples.document_samples()
    options = await samples.options_samples()
    directory = Sample(headers=file[200].headers | listing[200].headers)
    readiness = _json("ContentReadiness") | _text("text/plain")
    texts, any_file = _text("text/html", "text/plain"), {"*/*": {"schema": BINARY}}
    object_type = {"application/json": {"schema": {"type": "object"}}}
    responses = {
        "File": _response(
            "The file; the facts or the digest that the query asks for.",
            file.pop(200),
            any_file | _json("ContentFile"),
        ),
        "Root": _response(
            "The listing, in the form that `Accept` prefers; `index.html` of the root; how to use "
            "the distribution; or the file of a remote (pull-through).",
            directory,
            _json("ContentRoot") | texts | any_file,
        ),
        "Directory": _response(
            "The listing, in the form that `Accept` prefers; `index.html` of the directory; or the "
            "file of a remote (pull-through).",
            directory,
            _json("ContentListing") | texts | any_file,
        ),
        "Page": _response("The documentation.", document[200], _text("text/html")),
        "Options": _response("The methods of the path.", options[200], {}),
        "Live": _response("The process runs.", probe[200], _text("text/plain")),
        "Ready": _response("Content can be served.", probe[200], readiness),
        "NotReady": _response("The reason why content cannot be served.", probe[503], readiness),
        "Document": _response("This document.", document[200], object_type),
        "DocumentYAML": _response(
            "This document.", document[200], {"application/yaml": object_type["application/json"]}
        ),
    }
    responses |= {
        f"{name}Head": {key: value for key, value in response.items() if key != "content"}
        for name, response in responses.items()
    }
    for status, sample in file.items():
        if status in listing:
            sample.headers |= listing[status].headers
        content = any_file if status == 206 else {}
        responses[_name(status)] = _response(DESCRIPTIONS[status], sample, content)
    error = _json("ContentError") | texts
    responses["RemoteStatus"] = _response("The status of a remote (pull-through).", Sample(), error)
    responses["Failure"] = _response("An error.", Sample(), error)
    for status, sample in (await samples.failure_samples()).items():
        responses[_name(status)] = _response(sample.description, sample, error)
    return responses


def _response(description: str, sample: Sample, content: JSON) -> JSON:
    response: JSON = {
        "description": description,
        "headers": {
            name: {"$ref": f"#/components/headers/{name}"} for name in _titles(sample.headers)
        },
    }
    return response | ({"content": content} if content else {})


def _titles(names: Iterable[str]) -> list[str]:
    """Return names of headers as they are written in HTTP/1.1, sorted."""
    return [header_prefix(name.encode()).decode()[:-2] for name in sorted(names)]


def _header(name: str) -> JSON:
    description, schema = HEADERS.get(name, ("", TEXT))
    return {"description": description, "schema": {"type": "string"} | schema}


def _text(*media_types: str) -> JSON:
    return {media_type: {"schema": TEXT} for media_type in media_types}


def _json(name: str) -> JSON:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")
