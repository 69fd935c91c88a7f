"""On-demand content: fetched from its remote once, for all who ask for it meanwhile.

`sources.py` says what is wanted, and of whom. `on_demand.py` and `saving.py` talk to the database,
behind the door. `download.py` shares a fetch in a process (`downloads.py` has all of them),
`election.py` among processes. `fetch.py` runs a plugin's own downloader at the pace that `pace.py`
wants, into `intake.py`, which verifies what comes and writes it to the file between, `spool.py`.
`response.py` is what a distribution's app answers with.

For what a distribution lacks and asks its remote for, `pulled.py` talks to the database,
`adding.py` gives it to a repository, `passing.py` is the response, and `metadata.py` keeps what is
no content.
"""
