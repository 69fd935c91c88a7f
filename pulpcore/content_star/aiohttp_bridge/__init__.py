"""Code that plugins wrote for upstream's content app, an aiohttp server, run in this process.

`connection.py`, `writer.py` and `request.py` make an aiohttp request of an ASGI one; `run.py` has
it handled. `answers.py` sends what a distribution's hooks return. `modules.py` imports what plugins
add to upstream's `web.Application`, and `application.py` serves that. `files.py`, `handler.py`,
`middlewares.py` and `caching.py` replace those parts of upstream's that would end in its own way of
sending artifacts, fetching them, or caching. `threads.py` has the ORM's threads.
"""
