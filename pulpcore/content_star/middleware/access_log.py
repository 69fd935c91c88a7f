r"""The access log of content: one line for each request, in the form of upstream's.

    127.0.0.1 - - [22/Nov/2026:11:00:00 +0000] "GET /pulp/content/a/b HTTP/1.1" 200 5 "-" "curl/8" 2.1 local

That is what `pulpcore-api` and `pulpcore-content` write, followed by milliseconds and the source of
the answer, or `-`. The correlation id before it comes from the formatter in our settings.

Nothing that a client sends can look like another field or line: what is not printable ASCII becomes
`\xhh`, and quotes and backslashes are escaped, as Apache does it. Credentials in queries are masked,
and long fields are cut.
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

# Characters of a field; what comes after them is logged as `...`. A path has no more (`locate.py`),
# and masking takes a tenth of a second for 100 kB.
MAX_LENGTH = 8190

_UNSAFE = re.compile(r"[^ -~]")
_QUOTED = str.maketrans({'"': r"\"", "\\": r"\\"})

# Names of parameters whose values open doors: Pulp's signed URLs (validate_token), those of S3
# (X-Amz-…, AWSAccessKeyId), Google (X-Goog-…), Azure (sig) and CloudFront (Signature, Key-Pair-Id,
# Policy), and what people name such things.
_SECRET = re.compile(
    r"token|sig|secret|passw|pwd|credential|auth|key|policy|session|jwt|x-amz-|x-goog-",
    re.IGNORECASE,
)
_QUERY_OR_FRAGMENT = re.compile(r"([?#])")
_USER_INFO = re.compile(r"//[^/?#]*@")


class AccessLog:
    """Observer that logs exchanges on the level INFO."""

    def record(self, scope: Scope, info: RequestInfo) -> None:
        """Write the line."""
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


def is_wanted() -> bool:
    """Tell whether the logging configuration wants the log."""
    return log.isEnabledFor(logging.INFO)


def _client(scope: Scope) -> str:
    """The address of the client, which the server takes from proxies that it trusts.

    What a proxy says in `X-Forwarded-For` may be anything.
    """
    host = scope["client"][0] if scope.get("client") else ""
    return _printable(host).replace(" ", r"\x20") or "-"


def _request_line(scope: Scope) -> str:
    target = raw_path(scope).decode("latin-1")
    if query := scope["query_string"]:
        target += f"?{_without_secrets(query.decode('latin-1'))}"
    return f"{scope['method']} {target} HTTP/{scope['http_version']}"


def _referer(url: str) -> str:
    """Mask credentials in the query and the fragment, and a user and password before the host."""
    url, *rest = _QUERY_OR_FRAGMENT.split(url, maxsplit=1)
    url = _USER_INFO.sub(f"//{MASK}@", url, count=1)
    return url + "".join(map(_without_secrets, rest))


def _without_secrets(query: str) -> str:
    return "&".join(map(_masked, query[: MAX_LENGTH + 1].split("&")))


def _masked(parameter: str) -> str:
    """Mask the value of `name=value` if the name, or that of a parameter inside of it, is one."""
    plain = unquote_plus(unquote_plus(parameter))
    secret = _SECRET.search(plain)
    if secret is None or "=" not in plain[secret.end() :]:
        return parameter
    name, equals, _ = parameter.partition("=")
    return f"{name}={MASK}" if equals else MASK


def _printable(value: str) -> str:
    """Escape what could end the field or the line; `value` holds bytes as latin-1 characters."""
    if len(value) > MAX_LENGTH:
        value = f"{value[:MAX_LENGTH]}..."
    return _UNSAFE.sub(lambda match: rf"\x{ord(match[0]):02x}", value.translate(_QUOTED))
