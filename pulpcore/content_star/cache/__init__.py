"""What paths resolve to, kept in memory until something is committed that changes it.

`plans` holds it, `files` the bytes of small files. `triggers` has the database tell of changes,
`listener` hears of them, `signals` spares changes of this very process the way.
"""
