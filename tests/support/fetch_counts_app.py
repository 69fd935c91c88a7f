"""`pull_through_app` with a path that returns the number of download objects in memory."""

import gc
import json
from collections import Counter

from aiohttp import ClientSession
from starlette.types import Receive, Scope, Send

from tests.support import pull_through_app  # sets Django up

from pulpcore.content_star.remote.download import Download  # isort: skip
from pulpcore.content_star.remote.spool import Spool  # isort: skip


def count_objects() -> dict[str, int]:
    """Return the number of objects of each class of downloads, after a garbage collection."""
    gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects())
    sessions = [kind for kind in kinds if issubclass(kind, ClientSession)]
    return {
        "downloads": kinds[Download],
        "spools": kinds[Spool],
        "sessions": sum(kinds[kind] for kind in sessions),
    }


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http" or scope["path"] != "/left-in-memory":
        return await pull_through_app.application(scope, receive, send)
    body = json.dumps(count_objects()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
