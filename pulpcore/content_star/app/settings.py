"""Defaults of our settings; operators override them like any Pulp setting (`PULP_...`)."""

# Threads, and so database connections, that each process keeps for content requests. A cold
# request needs one for a few milliseconds, so a handful serves hundreds of requests a second;
# PostgreSQL's default limit is 100 connections for everything.
CONTENT_STAR_DATABASE_THREADS = 4

# Artifacts of fewer bytes are sent by Pulp itself where a domain redirects to its object storage: a
# redirect costs clients a second round trip, which can take longer than a small file. 0 redirects
# everything, as Pulp always has. A domain's label `content_star_redirect_min_size` goes before it.
CONTENT_STAR_REDIRECT_MIN_SIZE = 0
