r"""Access log of content requests, one line each, in the format of upstream's access logs.

    127.0.0.1 - - [22/Nov/2026:11:00:00 +0000] "GET /pulp/content/a/b HTTP/1.1" 200 5 "-" "curl/8" 2.1 local

The fields are those of `pulpcore-api` and `pulpcore-content`, followed by the duration in
milliseconds and the source of the response, or `-`. The correlation id at the start of the line
comes from the formatter in our settings.

Values from the client cannot forge fields or lines: characters other than printable ASCII are
written as `\xhh`, and quotes and backslashes are escaped, as in Apache. Credentials in queries are
masked, and long fields are truncated.
"""  # noqa: E501

import logging
import re
import time
from urllib.parse import unquote_plus

from starlette.datastructures import Headers
from starlette.types import Scope

from pulpcore.content_star.request_info import RequestInfo
from pulpcore.content_star.resolve.paths import raw_path

log = logging.getLogger("pulpcore.content_star.access")

MASK = "***"

# Maximum characters of a field; the rest is logged as `...`. Longer paths are refused, and masking
# 100 kB would take a tenth of a second.
MAX_LENGTH = 8190

_UNSAFE = re.compile(r"[^ -~]")
_QUOTED = str.maketrans({'"': r"\"", "\\": r"\\"})

# Names of parameters with credentials: signed URLs of Pulp (validate_token), S3 (X-Amz-…,
# AWSAccessKeyId), Google (X-Goog-…), Azure (sig) and CloudFront (Signature, Key-Pair-Id, Policy),
# and common names of secrets.
_SECRET = re.compile(
    r"token|sig|secret|passw|pwd|credential|auth|key|policy|session|jwt|x-amz-|x-goog-",
    re.IGNORECASE,
)
_QUERY_OR_FRAGMENT = re.compile(r"([?#])")
_USER_INFO = re.compile(r"//[^/?#]*@")


class AccessLog:
    """Observer that logs each request on the level INFO."""

    def record(self, scope: Scope, info: RequestInfo) -> None:
        """Log a request once its response has ended."""
        headers = Headers(scope=scope)
        log.info(
            '%s - - [%s] "%s" %d %d "%s" "%s" %.1f %s',
            _client(scope),
            time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(time.time() - info.seconds)),
            _printable(_request_line(scope)),
            info.status,
            info.bytes_sent,
            _printable(_referer(headers.get("referer", "-"))),
            _printable(headers.get("user-agent", "-")),
            info.seconds * 1000,
            info.source or "-",
        )


def is_enabled() -> bool:
    """Return whether the logging configuration enables the access log."""
    return log.isEnabledFor(logging.INFO)


def _client(scope: Scope) -> str:
    """Return the client's address; the server takes it from the headers of trusted proxies.

    It is escaped, since `X-Forwarded-For` may have any value.
    """
    host = scope["client"][0] if scope.get("client") else ""
    return _printable(host).replace(" ", r"\x20") or "-"


def _request_line(scope: Scope) -> str:
    target = raw_path(scope).decode("latin-1")
    if query := scope["query_string"]:
        target += f"?{_masked_query(query.decode('latin-1'))}"
    return f"{scope['method']} {target} HTTP/{scope['http_version']}"


def _referer(url: str) -> str:
    """Mask credentials in the query, the fragment and the userinfo of a URL."""
    url, *rest = _QUERY_OR_FRAGMENT.split(url, maxsplit=1)
    url = _USER_INFO.sub(f"//{MASK}@", url, count=1)
    return url + "".join(map(_masked_query, rest))


def _masked_query(query: str) -> str:
    return "&".join(map(_masked, query[: MAX_LENGTH + 1].split("&")))


def _masked(parameter: str) -> str:
    """Mask the value of `name=value` if its name, or one nested in the value, is a secret's."""
    plain = unquote_plus(unquote_plus(parameter))
    secret = _SECRET.search(plain)
    if secret is None or "=" not in plain[secret.end() :]:
        return parameter
    name, equals, _ = parameter.partition("=")
    return f"{name}={MASK}" if equals else MASK


def _printable(value: str) -> str:
    """Escape and truncate a field; `value` has bytes as Latin-1 characters."""
    if len(value) > MAX_LENGTH:
        value = f"{value[:MAX_LENGTH]}..."
    return _UNSAFE.sub(lambda match: rf"\x{ord(match[0]):02x}", value.translate(_QUOTED))
