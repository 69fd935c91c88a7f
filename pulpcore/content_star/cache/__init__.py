"""What paths resolve to, kept in memory until something is committed that changes it.

`cache` holds it, `answers` is what it holds, `cache_write` decides what may be kept,
`warm` sends what needs nobody else. `triggers` has the database tell of changes,
`listener` hears of them, `signals` spares changes of this very process the way.
"""
