"""Exceptions of fetching a file. Their messages may be logged: they contain no secrets."""

import os

from pulpcore.content_star.remote.request import AlreadySaved, RemoteSource
from pulpcore.content_star.responses.source import StoreReadError
from pulpcore.plugin.exceptions import TimeoutException


class RemoteUnavailable(Exception):
    """No remote could send the file."""


class RemoteTimeout(RemoteUnavailable):
    """The last remote that was tried exceeded its timeout."""


class RemoteBroke(StoreReadError):
    """The remotes stopped in the middle of the body, or its verification failed."""


class Mismatch(Exception):
    """The response of `source` contradicts the announced size, range, encoding or digest."""

    def __init__(self, reason: str, source: RemoteSource | None) -> None:
        super().__init__(reason)
        self.source = source


class CannotResume(Exception):
    """Clients have received bytes that no other source can be trusted to continue."""


class CannotDecode(Exception):
    """The Content-Encoding is unknown, or the body is malformed, truncated or a bomb."""


class ContentRemoved(Exception):
    """The content was removed from the database while its file was fetched."""


def failure_of(error: Exception | None) -> RemoteUnavailable:
    """Return the exception to raise for clients after the last remote raised `error`."""
    if isinstance(error, (TimeoutError, TimeoutException)):
        return RemoteTimeout("The remote takes too long.")
    return RemoteUnavailable("No remote could send the file.")


def reason(error: Exception) -> str:
    """Describe `error` for the log without secrets.

    The message of a foreign exception may contain a URL with credentials, so only its type and HTTP
    status, or the error of the system, are used.
    """
    if isinstance(
        error,
        (Mismatch, CannotResume, CannotDecode, ContentRemoved, AlreadySaved, RemoteUnavailable),
    ):
        return str(error)
    if isinstance(error, OSError) and error.errno and type(error).__module__ == "builtins":
        return os.strerror(error.errno)
    status = getattr(error, "status", None)
    return f"{type(error).__name__} {status}" if status else type(error).__name__
