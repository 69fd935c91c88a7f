"""Defaults of our settings; operators override them like any Pulp setting (`PULP_...`)."""

# Threads, and so database connections, that each process keeps for content requests. A cold
# request needs one for a few milliseconds, so a handful serves hundreds of requests a second;
# PostgreSQL's default limit is 100 connections for everything.
CONTENT_STAR_DATABASE_THREADS = 4
