"""Fetch content from remotes: on demand and pull-through, once for all concurrent clients.

`request.py` defines a fetch request and its sources; `on_demand.py` and `save.py` hold the ORM
work, which runs in a database executor. `download.py` shares one fetch among the clients of a
process, `downloads.py` holds all downloads of a process, and `lock.py` coordinates processes with
advisory locks. `downloader.py` runs the plugin's downloader within the limits of `timeouts.py` and
writes to the verifying sink (`sink.py`), which fills a temporary file (`spool.py`). `response.py`
is the ASGI response.

`pull_through/` serves files that a distribution lacks and its remote may have: the ORM work
(`models.py`), adding to a repository (`repository.py`), the response (`response.py`) and the cache
of metadata, which is never saved (`metadata_cache.py`).
"""
