"""Bypass of upstream's response cache in Redis for the content of this process.

That cache is invalidated by upstream's models in the process that changes them, or by a TTL.
Content served here must be neither stale nor unavailable without Redis. So the decorator returns
handlers unchanged, and handlers that were decorated before, while Django was set up, always miss
and store nothing.
"""

from typing import Any

from pulpcore.plugin.cache import AsyncContentCache


def disable_upstream_cache() -> None:
    """Disable upstream's content cache in this process; other uses of Redis are unaffected."""
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
