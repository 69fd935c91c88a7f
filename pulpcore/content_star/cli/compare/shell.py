"""`curl` commands that repeat a request."""

import re
import shlex

from pulpcore.content_star.cli.compare.exchange import ETAG, Request

MASK = "***"

_SECRET = re.compile(
    r"token|sig|secret|passw|pwd|credential|auth|key|policy|session|jwt|x-amz-|x-goog-",
    re.IGNORECASE,
)


def masked(target: str) -> str:
    """Return a target with the secrets in its query masked."""
    path, question, query = target.partition("?")
    parameters = [_masked(parameter) for parameter in query.split("&")] if question else []
    return path + question + "&".join(parameters)


def masked_text(text: str) -> str:
    """Return a text with the values of `name=value` masked, if they are secrets by their names."""
    return re.sub(r"[\w.-]+=[^&\s\"']*", lambda found: _masked(found[0]), text)


def _masked(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}={MASK}" if equals and _SECRET.search(name) else parameter


def curl(request: Request, facet: str, base_url: str) -> str:
    """Return a command that shows a part of the response; credentials are left to the reader."""
    words = ["curl", "-sS", "--path-as-is"]
    if request.method == "HEAD":
        words.append("-I")
    elif request.method != "GET":
        words += ["-X", request.method]
    is_body = facet in ("body", "listing")
    if not is_body and request.method != "HEAD":
        words += ["-D", "-", "-o", "/dev/null"]
    for name, value in request.headers.items():
        words += ["-H", f"{name}: {value.replace(ETAG, '<the ETag of this server>')}"]
    words.append(base_url + masked(request.target))
    command = shlex.join(words)
    return f"{command} | sha256sum" if facet == "body" else command
