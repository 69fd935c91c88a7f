"""Check the storage of each domain, by an artifact or by an object that does not exist."""

import re
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from django.core.files.storage import FileSystemStorage, Storage

from pulpcore.content_star.app.check_line import Line
from pulpcore.plugin.models import Artifact, Domain

STORE_TIMEOUT = 10
"""Seconds that the object store may take to answer."""

MAX_ERROR_BYTES = 10_000

MISSING = "content-star-check/no-such-object"
"""Name of an object that does not exist."""

MISSING_OBJECT = frozenset({"NoSuchKey", "BlobNotFound"})
"""Codes of a store that knows the bucket and the key, and has no such object."""

HIDDEN = "AccessDenied"
"""Code of a store that does not tell this key which objects exist."""

_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")


def storage() -> Iterator[Line]:
    """Yield a line for each domain: a byte of an artifact, and by its signed URL.

    A domain without artifacts is asked for an object that does not exist.
    """
    for domain in Domain.objects.order_by("name"):
        artifact = Artifact.objects.filter(pulp_domain=domain).order_by("-pulp_created").first()
        where = f"{domain.storage_class.rpartition('.')[2]} of domain {domain.name}"
        try:
            yield (
                _without_artifact(domain, where)
                if artifact is None
                else _with_artifact(domain, artifact, where)
            )
        except Exception as error:  # of any storage backend
            yield Line("fault", "storage", f"{where}: {_reason(error)}: {_REMEDY}")


_REMEDY = "check its settings, and that this user or key may read it"


def _with_artifact(domain: Domain, artifact: Artifact, where: str) -> Line:
    """Read a byte as content is streamed, and as it is redirected."""
    backend, name = domain.get_storage(), artifact.file.name
    try:
        with backend.open(name) as file:
            file.read(1)
    except Exception as error:
        code = "" if isinstance(backend, FileSystemStorage) else _code_at(backend, name)
        answer = f"; the store answers {code}" if code else ""
        text = f"{where}: {name} cannot be read ({_reason(error)}{answer}): {_REMEDY}"
        return Line("fault", "storage", text)
    if isinstance(backend, FileSystemStorage) or not domain.redirect_to_object_storage:
        return Line("ok", "storage", f"{where}: a file can be streamed")
    request = Request(backend.url(name), headers={"Range": "bytes=0-0"})  # noqa: S310
    with urlopen(request, timeout=STORE_TIMEOUT) as response:  # noqa: S310
        response.read(1)
    return Line("ok", "storage", f"{where}: a file can be streamed, and its signed URL works")


def _without_artifact(domain: Domain, where: str) -> Line:
    """Request a missing object: the error code shows whether bucket and key are valid."""
    backend = domain.get_storage()
    if isinstance(backend, FileSystemStorage):
        return Line("note", "storage", f"{where}: there is no artifact to try")
    refused = _read_error(backend)
    code = _code_at(backend, MISSING)
    if code in MISSING_OBJECT:
        return Line("ok", "storage", f"{where}: the store accepts the key, and has the bucket")
    if code and code != HIDDEN:
        return Line("fault", "storage", f"{where}: the store answers {code}: {_REMEDY}")
    if refused and not code:
        return Line("fault", "storage", f"{where}: the store refuses a read ({refused}): {_REMEDY}")
    text = f"{where}: there is no artifact to try, and the store hides which objects it has"
    return Line("note", "storage", text)


def _read_error(backend: Storage) -> str:
    """Return the error of reading a missing object, empty if it is reported as missing."""
    try:
        with backend.open(MISSING) as file:
            file.read(1)
    except FileNotFoundError:
        return ""
    except Exception as error:  # of any storage backend
        return _reason(error)
    return ""


def _code_at(backend: Storage, name: str) -> str:
    """Return the error code of an object store at the signed URL of an object, empty without one.

    S3, Azure and Google answer with XML that has the code in `<Code>`. Raises `OSError`.
    """
    try:
        with urlopen(backend.url(name), timeout=STORE_TIMEOUT):  # noqa: S310
            return ""
    except HTTPError as error:
        found = _CODE.search(error.read(MAX_ERROR_BYTES))
        return found[1].decode() if found else ""


def _reason(error: Exception) -> str:
    """Return kind and first line of an error, without a query, which may have a signature."""
    line, *_ = str(error).partition("?")[0].splitlines() or [""]
    return f"{type(error).__name__}: {line[:200]}"
