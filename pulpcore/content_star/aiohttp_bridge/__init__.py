"""Bridge that runs plugins' aiohttp code for upstream's content app in this process.

`connection.py`, `writer.py` and `request.py` build an aiohttp request from an ASGI scope; `run.py`
calls an aiohttp handler with it. `hook_responses.py` sends what the hooks of a distribution return.
`modules.py` imports the modules that add routes to upstream's `web.Application`, and
`application.py` serves that. `files.py`, `handler.py`, `middlewares.py` and `caching.py` replace
the parts of upstream that send and fetch artifacts, authenticate, and cache. `internals.py` lists
the private attributes in use.
"""
