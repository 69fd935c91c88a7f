"""Defaults of our settings; operators override them like any Pulp setting (`PULP_...`)."""

# Threads, and so database connections, that each process keeps for content requests. A cold
# request needs one for a few milliseconds, so a handful serves hundreds of requests a second;
# PostgreSQL's default limit is 100 connections for everything.
CONTENT_STAR_DATABASE_THREADS = 4

# Seconds for which content requests remember that a user name and password sent with Basic
# authentication were right, because checking them takes 100 to 250 ms of CPU. Changes of the user
# count at once all the same; 0 checks every request. See `basic_auth.py`.
CONTENT_STAR_BASIC_AUTH_TTL = 60
