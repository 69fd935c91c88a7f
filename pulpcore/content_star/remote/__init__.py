"""On-demand content: fetched from its remote once a process, for all who ask for it meanwhile.

`sources.py` says what is wanted, and of whom. `on_demand.py` and `saving.py` talk to the database,
behind the door. `fetch.py` runs a plugin's own downloader, `download.py` shares what it brings,
`spool.py` is the file between, and `response.py` is what a distribution's app answers with.

For what a distribution lacks and asks its remote for, `pulled.py` talks to the database,
`passing.py` is the response, and `metadata.py` keeps what is no content.
"""
