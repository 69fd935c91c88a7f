"""Response cache in memory, invalidated by changes that are committed to the database.

`store` is the cache, `entries` its entries, `policy` decides which responses are cached.
`fast_path` sends cached responses before other middleware runs, `cdn_headers` makes the headers for
caches in front of Pulp. `invalidation` drops entries when rows change.
"""
