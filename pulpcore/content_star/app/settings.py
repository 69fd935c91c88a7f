"""Default settings; operators override them like any Pulp setting (`PULP_...`)."""

# Threads of the database executor of each process, with a database connection each, for content
# requests. A cache miss needs one for a few milliseconds, so a few threads serve hundreds of
# requests per second; PostgreSQL's default limit is 100 connections in total.
CONTENT_STAR_DATABASE_THREADS = 4

# Seconds in which the database has to answer a content request, waiting for a thread included; then
# the client gets 503, and the connection is given up. A lookup takes milliseconds, and clients give
# up after 10 to 60 seconds. Listings have 30, since some read all rows of a repository.
CONTENT_STAR_DATABASE_TIMEOUT = 5

# Threads of each process for API requests, with a database connection each; further requests are
# queued. Because of Python's global interpreter lock, more threads only help if views wait.
CONTENT_STAR_API_THREADS = 8

# API requests of each process that may wait for one of these threads; further ones get 503. At 50
# requests a second the last one waits for five seconds, and clients give up after 10 to 60.
CONTENT_STAR_API_WAITING = 256

# Threads for API requests with a body of over 64 KiB (uploads), and for streaming responses. Their
# duration depends on the client, so they do not share threads with other requests.
CONTENT_STAR_UPLOAD_THREADS = 32

# Maximum bytes of the body of an API request; a larger one gets 413. None is unlimited: container
# clients push layers of many gigabytes in one request, and the body is not received before
# authentication.
CONTENT_STAR_MAX_BODY_SIZE = None

# Artifacts of fewer bytes are sent by Pulp itself if the domain redirects to object storage: the
# second round trip of a redirect can take longer than a small file. 0 redirects everything, as
# upstream does. The domain's label `content_star_redirect_min_size` takes precedence.
CONTENT_STAR_REDIRECT_MIN_SIZE = 0

# Seconds for which a successful check of Basic authentication is cached for content requests,
# because it takes 100 to 250 ms of CPU. Changes of the user take effect at once; 0 checks every
# request. See `auth/basic_auth_cache.py`.
CONTENT_STAR_BASIC_AUTH_TTL = 60

# Maximum seconds for which metadata of a remote (pull-through) is used without revalidation; the
# remote's response may set fewer. Every client requests metadata first. 0 revalidates each time,
# which is quick with a 304.
CONTENT_STAR_METADATA_TTL = 10

# Bytes of such metadata that each process caches, in unnamed temporary files in
# `WORKING_DIRECTORY`. Responses of over a quarter of that are not cached; 0 disables the cache.
CONTENT_STAR_METADATA_SIZE = 256 * 1024 * 1024

# Maximum bytes of a file of unknown size that is fetched from a remote: by pull-through, or on
# demand if the remote's metadata has no size. It limits Content-Length, the received and the
# decompressed bytes. The largest files of public registries have about 50 GB.
CONTENT_STAR_REMOTE_MAX_SIZE = 64 * 1024**3

# Whether a redirect of the API to content is served in the same response (see
# `middleware/internal_redirect.py`), which saves the client a request. Disable it if a reverse
# proxy or CDN has to see the redirects.
CONTENT_STAR_INTERNAL_REDIRECT = True

# Serving mode of legacy plugins, which only have aiohttp code: "bridge" runs it here, "refuse"
# responds 501, and "proxy" forwards requests to a running `pulpcore-content` at
# CONTENT_STAR_LEGACY_URL (`http://host:port`). `pulpcore-manager content-star-plugins` lists them.
CONTENT_STAR_LEGACY_PLUGINS = "bridge"
CONTENT_STAR_LEGACY_URL = None

# Lets a web server in front send artifacts: the URI of nginx's internal location of MEDIA_ROOT,
# such as "/pulp-artifacts/" (X-Accel-Redirect), or "X-Sendfile" for Apache and lighttpd. Clients
# that bypass the web server would get empty files. Empty: Pulp sends files itself.
CONTENT_STAR_SENDFILE = ""

# Whether pages of any origin may read content of distributions without a guard (CORS). Off, as most
# clients are not browsers, and on a private network the content would be readable by any page that
# a user of the network visits.
CONTENT_STAR_CORS = False

# The form of directories and of the index of distributions for browsers: "page" is the page for
# people; "classic" is the list of links that all other clients get.
CONTENT_STAR_INDEX = "page"

# Name of the site on these pages, URL of a logo shown in its place (of this host: pages load
# nothing from others), and links in the header, as a dict of names to URLs.
CONTENT_STAR_TITLE = "Pulp"
CONTENT_STAR_LOGO = ""
CONTENT_STAR_LINKS: dict[str, str] = {}

# Lets clients cache the style and script of these pages for ever: their URLs have a hash.
WHITENOISE_IMMUTABLE_FILE_TEST = r"/content_star/(page|docs)\.(css|js)$|/redoc\.standalone\.js$"

# Static files of the documentation's viewer; merged into Pulp's apps.
INSTALLED_APPS = ["drf_spectacular_sidecar", "dynaconf_merge"]

# Whether `/` redirects to the index of content if Django has no view for it. Off, as a reverse
# proxy usually serves another page there; `pulp-star up` sets it.
CONTENT_STAR_REDIRECT_ROOT = False

# Whether the schema of the REST API (`/pulp/api/v3/docs/api.json`) has the paths of content. On,
# as clients that openapi-generator makes of it work, and those of single components, which upstream
# publishes, are made without these paths.
CONTENT_STAR_IN_API_SCHEMA = True

# Merged into pulpcore's settings: the hook is called after its own.
SPECTACULAR_SETTINGS = {
    "dynaconf_merge": True,
    "POSTPROCESSING_HOOKS": ["pulpcore.content_star.schema.pulp_api.add_content_paths"],
}

# Maximum entries of the response cache of each process, about 4 KiB each; they are invalidated by
# changes in the database. 0 disables the cache. See `cache/`.
CONTENT_STAR_CACHE_ENTRIES = 10_000

# Maximum bytes of small files (up to 64 KiB) that the response cache of each process holds in
# memory.
CONTENT_STAR_CACHE_BYTES = 64 * 1024 * 1024

# Seconds for which the response cache is used while the database does not answer, for content
# without a guard or with one that needs no database (stale-if-error, RFC 5861). Long enough for a
# failover; changes of permissions must not be missed for long. 0: never.
CONTENT_STAR_STALE_IF_ERROR = 300

# With uvicorn's option `--http pulpcore.content_star.server:HttpProtocol`: timeout in seconds for
# the head of a request, from the connection or the first byte on. Clients on slow lines need one or
# two; nginx's default is 60.
CONTENT_STAR_HEAD_TIMEOUT = 30

# Timeout in seconds between two reads of a request body, as in nginx: uploads may stall for a
# while.
CONTENT_STAR_BODY_TIMEOUT = 60

# Maximum connections of each process. 0 is half the limit of open files (`LimitNOFILE`), since each
# may need another file. At the limit, the oldest idle connection is closed; if all are busy, new
# ones get 503.
CONTENT_STAR_CONNECTIONS = 0

# Thresholds of Python's garbage collector (`gc.set_threshold`) while the application runs; objects
# that exist at its start are exempt (`gc.freeze`). Full collections, each of which stops a process
# for 0.1 s, are ten times rarer than with the default of Python 3.11 and 3.12, (700, 10, 10), 3.5
# times than with that of 3.13, (2000, 10, 10). None changes neither.
CONTENT_STAR_GC_THRESHOLDS = (700, 10, 100)

# Seconds for which a thread may compute before another gets Python's interpreter lock
# (`sys.setswitchinterval`) while views of the API run, so that they delay content less. With
# Python's default, 0.005, small cached files took 39 to 103 ms (p99) while four clients listed
# tasks, and 14 ms with 0.001; 0.0002 was worse. None leaves the default.
CONTENT_STAR_SWITCH_INTERVAL = 0.001

# Added to the nice value of the threads that handle API requests, on Linux, so that content comes
# first where processors are busy. Beside two processes that compute and four clients that list
# tasks, a download of 10 Gbit/s loses 2 % instead of 13 with 0. With 10, a thread of the API that
# has the interpreter lock may not get a processor, and small files take 33 ms (p99) instead of 8.
CONTENT_STAR_API_NICE = 3

# Whether threads have a current directory and umask of their own, by unshare(2) on Linux, for
# plugins and tasks that write to their working directory. If not, or where a container denies it,
# threads share those of the process, and tasks that the API runs wait for each other.
CONTENT_STAR_UNSHARE = True

# The access log of content (see `middleware/access_log.py`) is off by default, as uvicorn's access
# log is on. The level INFO of its logger enables it. Its format is that of `pulpcore-api`, without
# the logger's name, which Pulp's default format starts with.
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
