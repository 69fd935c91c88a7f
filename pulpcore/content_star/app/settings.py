"""Defaults of our settings; operators override them like any Pulp setting (`PULP_...`)."""

# Threads, and so database connections, that each process keeps for content requests. A cold
# request needs one for a few milliseconds, so a handful serves hundreds of requests a second;
# PostgreSQL's default limit is 100 connections for everything.
CONTENT_STAR_DATABASE_THREADS = 4

# Threads in which each process handles API requests, with a database connection each; other
# requests wait for one. Python runs one at a time: more help where views wait.
CONTENT_STAR_API_THREADS = 8

# Threads for API requests with a body of over 64 KiB (uploads), and for streamed responses. Clients
# decide how long these are busy: they keep no other request waiting.
CONTENT_STAR_UPLOAD_THREADS = 32

# Bytes that the body of a request to the API may have; a larger one is answered with 413. None sets
# no limit: container clients push layers of many gigabytes in one request, and nothing is taken
# before the client has been authenticated.
CONTENT_STAR_MAX_BODY_SIZE = None

# Artifacts of fewer bytes are sent by Pulp itself where a domain redirects to its object storage: a
# redirect costs clients a second round trip, which can take longer than a small file. 0 redirects
# everything, as Pulp always has. A domain's label `content_star_redirect_min_size` goes before it.
CONTENT_STAR_REDIRECT_MIN_SIZE = 0

# Seconds for which content requests remember that a user name and password sent with Basic
# authentication were right, because checking them takes 100 to 250 ms of CPU. Changes of the user
# count at once all the same; 0 checks every request. See `auth/basic_auth_cache.py`.
CONTENT_STAR_BASIC_AUTH_TTL = 60

# Seconds for which metadata that a remote sent for a distribution without the file (pull-through)
# is used without asking the remote again, where the remote does not allow less. Every client wants
# metadata, at the begin of whatever it does. 0 asks each time, which is quick when nothing changed.
CONTENT_STAR_METADATA_TTL = 10

# Bytes of such metadata that each process keeps, in files without a name in `WORKING_DIRECTORY`.
# An answer of over a quarter of that is not kept; 0 keeps nothing.
CONTENT_STAR_METADATA_SIZE = 256 * 1024 * 1024

# Bytes of the largest file that is fetched from a remote where Pulp does not know its size: pulled
# through, or synced from a remote that said nothing. What such a remote announces, sends without an
# end or has decompressed counts. The largest files of public registries have about 50 GB.
CONTENT_STAR_REMOTE_MAX_SIZE = 64 * 1024**3

# Whether content that the API redirects to is sent in the same response, which spares clients a
# second request (`middleware/internal_redirect.py`). Off where redirects have to be seen, by a
# proxy's rules or a CDN.
CONTENT_STAR_INTERNAL_REDIRECT = True

# What becomes of plugins whose content is written for aiohttp only: "bridge" runs it here, "refuse"
# answers 501, and "proxy" passes requests on to a `pulpcore-content` that still runs, at
# CONTENT_STAR_LEGACY_URL (`http://host:port`). `pulpcore-manager content-star-plugins` lists them.
CONTENT_STAR_LEGACY_PLUGINS = "bridge"
CONTENT_STAR_LEGACY_URL = None

# Has a web server in front send saved files: the URI of nginx's internal location of MEDIA_ROOT,
# such as "/pulp-artifacts/" (X-Accel-Redirect), or "X-Sendfile" for Apache and lighttpd. Not where
# clients reach Pulp in another way too: they would get no bytes. Empty: Pulp sends files itself.
CONTENT_STAR_SENDFILE = ""

# Whether pages of any origin may read what distributions without a guard serve (CORS). Off, as most
# clients are no browsers, and content that only a network keeps private would be open to any page
# that a user of that network visits.
CONTENT_STAR_CORS = False

# Whether `/` of the application redirects to the index of content where Django has no view for it.
# Off, as a front proxy mostly has something else there; `pulp-star up` has nothing, and sets it.
CONTENT_STAR_REDIRECT_ROOT = False

# Answers that each process keeps in memory until something changes that they were made from, about
# 4 KiB each. 0 looks everything up with each request. See `cache/store.py`.
CONTENT_STAR_CACHE_ENTRIES = 10_000

# Bytes of small files (64 KiB and less) that each process keeps with them.
CONTENT_STAR_CACHE_BYTES = 64 * 1024 * 1024

# With uvicorn's option `--http pulpcore.content_star.server:HttpProtocol`: seconds for a client to
# send the head of a request, from the connection or its first byte on. One on a slow line needs one
# or two; nginx waits for 60.
CONTENT_STAR_HEAD_TIMEOUT = 30

# Seconds without a byte of a body that something waits for. As nginx: uploads may stop for a while.
CONTENT_STAR_BODY_TIMEOUT = 60

# Connections of each process. 0 is half the limit of open files (`LimitNOFILE`), since each may
# need a file too. At the limit, the oldest without a request makes room; if all have one, new ones
# get 503.
CONTENT_STAR_CONNECTIONS = 0

# The access log of content (`middleware/access_log.py`) is off, as `pulpcore-content` has it: one
# log of requests, uvicorn's, is on already. The level INFO for its logger turns it on. Its form is
# that of `pulpcore-api`, without the logger's name that Pulp's own form for everything else puts
# first.
LOGGING = {
    "dynaconf_merge": True,
    "formatters": {"content_star_access": {"format": "pulp [%(correlation_id)s]: %(message)s"}},
    "handlers": {
        "content_star_access": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "formatter": "content_star_access",
            "filters": ["correlation_id"],
        }
    },
    "loggers": {
        "pulpcore.content_star.access": {
            "handlers": ["content_star_access"],
            "level": "WARNING",
            "propagate": False,
        }
    },
}
