"""What may go wrong with a fetch. The message of each may be logged: no secret is in it."""

from pulpcore.content_star.remote.request import AlreadySaved, RemoteSource
from pulpcore.content_star.responses.source import StoreBroke
from pulpcore.exceptions import TimeoutException


class RemoteUnavailable(Exception):
    """No remote could be made to send the file."""


class RemoteTimeout(RemoteUnavailable):
    """The last of the remotes took too long."""


class RemoteBroke(StoreBroke):
    """The remotes stopped sending in the middle, or what they sent is not what they announced."""


class Mismatch(Exception):
    """`source` sends other bytes than it announced."""

    def __init__(self, reason: str, source: RemoteSource | None) -> None:
        super().__init__(reason)
        self.source = source


class CannotResume(Exception):
    """Clients have bytes that no other source can be trusted to go on from."""


class CannotDecode(Exception):
    """The bytes are not of the encoding, or they end too early, or nobody knows the encoding."""


class ContentRemoved(Exception):
    """The content has been removed while its file was fetched."""


def failure_of(error: Exception | None) -> RemoteUnavailable:
    """What clients are told when the last of the remotes raised `error`."""
    if isinstance(error, (TimeoutError, TimeoutException)):
        return RemoteTimeout("The remote takes too long.")
    return RemoteUnavailable("No remote could send the file.")


def reason(error: Exception) -> str:
    """What went wrong, without what errors of others say: a URL may be in it."""
    if isinstance(
        error,
        (Mismatch, CannotResume, CannotDecode, ContentRemoved, AlreadySaved, RemoteUnavailable),
    ):
        return str(error)
    status = getattr(error, "status", None)
    return f"{type(error).__name__} {status}" if status else type(error).__name__
