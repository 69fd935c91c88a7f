"""`pull_through_app`, which also counts objects of fetches in memory, at a path of its own."""

import gc
import json
from collections import Counter

from aiohttp import ClientSession
from starlette.types import Receive, Scope, Send

from tests.support import pull_through_app  # has Django set up

from pulpcore.content_star.remote.download import Download  # isort: skip
from pulpcore.content_star.remote.spool import Spool  # isort: skip


def left() -> dict[str, int]:
    """How many there are of what every fetch makes, once what nobody refers to has gone."""
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
    body = json.dumps(left()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
