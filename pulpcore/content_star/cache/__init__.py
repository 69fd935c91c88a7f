"""What paths resolve to, kept in memory until something is committed that changes it.

`plans` holds it, `draft` decides what may be kept. `triggers` has the database tell of changes,
`listener` hears of them, `signals` spares changes of this very process the way.
"""
