"""Upstream's cache of responses in Redis, which is not used in this process.

Its entries go when upstream's models say so in the process that changes them, or after a time. What
is served here is looked up for each request, and nothing of it may be stale, or fail because there
is no Redis. So the decorator leaves handlers as they are, and those that were decorated already,
while Django was set up, find nothing in the cache and leave nothing there.
"""

from typing import Any

from pulpcore.cache import AsyncContentCache


def adopt_cache() -> None:
    """Bypass the cache in this process; what else uses Redis, such as the API, is not touched."""
    AsyncContentCache.__call__ = _undecorated
    AsyncContentCache.get = _nothing
    AsyncContentCache.exists = _nothing
    AsyncContentCache.set = _nothing
    AsyncContentCache.make_entry = _uncached


def _undecorated(cache: Any, handler: Any) -> Any:
    return handler


async def _nothing(cache: Any, *args: Any, **kwargs: Any) -> None:
    return None


async def _uncached(
    cache: Any, key: Any, base_key: Any, handler: Any, args: Any, kwargs: Any, expires: Any = None
) -> Any:
    return await handler(*args, **kwargs)
