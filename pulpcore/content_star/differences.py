"""Deliberate differences of responses from upstream's content app, with their reasons.

The parity tests accept these differences and no others, `pulp-star compare` shows them with their
reasons, and `docs/differences.md` is made from them. Imports nothing of the package.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A deliberate difference."""

    facets: frozenset[str]
    """Parts of a response that may differ: `status`, `body`, `listing`, or a header's name."""

    upstream: str
    ours: str
    reason: str


def _difference(facets: str, upstream: str, ours: str, reason: str) -> Difference:
    return Difference(frozenset(facets.split()), upstream, ours, reason)


DIFFERENCES = {
    "validators": _difference(
        "etag last-modified",
        "On a file system, `ETag` and `Last-Modified` are made from the file's mtime.",
        '`ETag` is `"<sha256>"` on every storage, `Last-Modified` the time at which the content'
        " came into the repository.",
        "Upstream means to send these, but its server replaces them. Two copies of one file, or a"
        " restored backup, have one validator.",
    ),
    "security headers": _difference(
        "x-content-type-options content-security-policy content-disposition cache-control",
        "None on a file system; `attachment;filename=NAME` in object storage.",
        "`X-Content-Type-Options`, `Content-Security-Policy` and `Content-Disposition` (RFC 6266,"
        " the name quoted) on every artifact, the first two on listings too.",
        "CVE-2026-84232. Content shares an origin with the API and its sessions here.",
    ),
    "error text": _difference(
        "cache-control body content-length content-type vary x-content-type-options",
        "`404: Not Found` as text.",
        'The reason, as text or, where `Accept` prefers JSON, as `{"detail": ...}`.',
        "A client sees whether the base path or the file is wrong (issue 2977).",
    ),
    "listing page": _difference(
        "cache-control body content-length vary x-content-type-options content-security-policy"
        " etag content-encoding transfer-encoding",
        "HTML without character set or doctype; partial base paths are titled without the prefix.",
        "A complete HTML page, titled with the path of the URL, with gzip for clients that accept"
        " it and a weak `ETag`. Names, dates and sizes are alike; links begin with `./` only where"
        " a colon needs it.",
        "Browsers guess less, the title is right (issue 4253), a tenth is sent, and programs that"
        ' look for `href="name"` find it.',
    ),
    "JSON of a directory": _difference(
        "cache-control vary body listing content-length content-type x-content-type-options"
        " content-security-policy etag content-encoding transfer-encoding",
        "A directory is HTML, whatever `Accept` says.",
        "JSON where `Accept` prefers it (see [listings](listings.md)), also where there is an"
        " `index.html`; all answers to directories carry `Vary: Accept`.",
        "Programs need not read HTML (issue 7887).",
    ),
    "percent-encoded links": _difference(
        "listing",
        "File names stand in links as they are.",
        "Links are percent-encoded.",
        "Names with `%`, `#` or `?` could not be followed.",
    ),
    "HEAD of a listing": _difference(
        "cache-control content-length vary x-content-type-options content-security-policy"
        " content-encoding",
        "Makes the whole listing to get its length; at the root, sends a wrong one.",
        "Answers whether the directory exists, without `Content-Length`.",
        "HEAD of a directory with a million files timed out (issue 3774).",
    ),
    "empty partial path": _difference(
        "status",
        "A partial base path whose distributions are all hidden is an empty listing.",
        "404.",
        "The existence of a hidden distribution must not be disclosed.",
    ),
    "redirect body": _difference(
        "cache-control body content-length content-type",
        "Redirects carry a line of text.",
        "Redirects have no body.",
        "Clients do not read it.",
    ),
    "redirect query": _difference(
        "location",
        "The redirect to the missing slash drops the query.",
        "The query is preserved.",
        "Signed URLs carry their signature in the query.",
    ),
    "index.html passed through": _difference(
        "body cache-control content-length content-type vary etag last-modified accept-ranges"
        " content-disposition x-content-type-options content-security-policy x-pulp-artifact-size"
        " listing",
        "A directory whose `index.html` is the repository's own, passed through by the publication,"
        " is listed.",
        "The page is shown, as where it is published, in the same sandbox.",
        "A folder of static files is served as by any web server: `pip --index-url` finds all.",
    ),
    "index.html without a slash": _difference(
        "status",
        "For repository versions, `dir` answers with `dir/index.html`.",
        "301 to `dir/`, as for publications.",
        "Relative links of the page lead somewhere else without the slash.",
    ),
    "method not allowed": _difference(
        "allow",
        "`Allow: GET,HEAD`",
        "`Allow: GET, HEAD, OPTIONS`",
        "OPTIONS is answered.",
    ),
    "OPTIONS": _difference(
        "status",
        "405.",
        "200 with `Allow`.",
        "RFC 9110 section 9.3.7; monitoring uses it.",
    ),
    "weak comparison": _difference(
        "status",
        '`If-None-Match: W/"..."` never matches.',
        "It matches as the strong tag does: 304.",
        "RFC 9110 section 13.1.2. Proxies that compress make tags weak.",
    ),
    "validators that clients have": _difference(
        "status",
        "304 for its own `ETag`, or for a date after the file's mtime.",
        "200 for the `ETag` of upstream's app; 304 for its own, or for a date after the content"
        " came into the repository.",
        "The validators of files differ, so clients fetch a file once more after the switch.",
    ),
    "304": _difference(
        "content-type etag last-modified x-pulp-artifact-size",
        "304 for `*`, a date or its own tag has headers of the representation, and its own tag.",
        "304 with `ETag` and `Cache-Control`, as any other 304.",
        "RFC 9110 section 15.4.5.",
    ),
    "If-Match": _difference(
        "status",
        "The sha256 tag never matches: 412.",
        "It matches: 200.",
        "It is the tag that was sent.",
    ),
    "412": _difference(
        "cache-control content-type etag last-modified x-pulp-artifact-size",
        "412 carries headers of the representation.",
        "It does not.",
        "It is not the representation.",
    ),
    "416": _difference(
        "body accept-ranges cache-control content-length content-type etag last-modified"
        " transfer-encoding x-pulp-artifact-size",
        "416 comes as text, or chunked with headers of the representation.",
        "An empty body, `Content-Range: bytes */<size>` and `Accept-Ranges`.",
        "One form for all bad ranges.",
    ),
    "unknown range unit": _difference(
        "status",
        "416.",
        "The header is ignored: 200.",
        "RFC 9110 section 14.2.",
    ),
    "several ranges": _difference(
        "status",
        "416.",
        "206 with `multipart/byteranges`.",
        "RFC 9110 section 14.6; zchunk metadata is fetched so.",
    ),
    "If-Range": _difference(
        "status",
        "`If-Range` with a tag is ignored: always 206.",
        "The range is sent only if the tag is the file's, else the whole file.",
        "RFC 9110 section 13.1.5. A resumed download must not mix two files.",
    ),
    "HEAD and Range": _difference(
        "status",
        "206.",
        "The range is ignored: 200.",
        "RFC 9110 section 14.2: ranges are defined for GET.",
    ),
    "304 instead of a redirect": _difference(
        "cache-control",
        "Where it would redirect to object storage, 304 says `Cache-Control: no-store`.",
        "304 has the file's own `Cache-Control`.",
        "It is about the file that the client has, and no URL that expires is in it.",
    ),
    "If-Match in object storage": _difference(
        "status",
        "`If-Match` and `If-Unmodified-Since` are ignored for files in object storage.",
        "412 where they do not hold, as on a file system.",
        "RFC 9110 section 13.1.1.",
    ),
    "invalid checkpoint timestamp": _difference(
        "status",
        "A path that is not a timestamp is redirected to a slash first.",
        "404.",
        "There is nothing behind the slash either.",
    ),
    "artifacts by id": _difference(
        "cache-control etag last-modified x-pulp-artifact-size",
        "No validators.",
        "As for every other file.",
        "They can be cached and resumed.",
    ),
    "on demand": _difference(
        "etag last-modified content-length transfer-encoding content-type accept-ranges",
        "The remote's own headers are passed on, and the body is sent in chunks, without its"
        " length.",
        "The headers that the file will have when it is saved.",
        "A file is the same before and after. A HEAD, too, fetches nothing.",
    ),
    "on demand and conditional": _difference(
        "status",
        "200: conditions are ignored before a file is saved.",
        "304.",
        "The digest is known, so nothing has to be fetched.",
    ),
    "pulled through": _difference(
        "etag last-modified content-length transfer-encoding content-type accept-ranges"
        " x-pulp-artifact-size",
        "All headers of the remote are passed on, and the body is sent in chunks.",
        "Content has the headers that it will have when it is saved. Metadata has the remote's"
        " type, validators and what package managers read; the length is sent where it is known.",
        "Cookies, encodings and redirects of a remote are not about Pulp's answer.",
    ),
    "416 of pull-through": _difference(
        "content-range",
        "`Content-Range: bytes */*`.",
        "The size, if the remote sent it.",
        "RFC 9110 section 14.4 has no second asterisk.",
    ),
    "remotes that cannot be reached": _difference(
        "status",
        "500.",
        "502.",
        "The fault is not in Pulp.",
    ),
    "plugins without pull-through": _difference(
        "status",
        "500, where a plugin does not map a path to content.",
        "The remote's answer is passed on and not saved.",
        "As for metadata.",
    ),
    "no remote sends it": _difference(
        "status",
        "404.",
        "502.",
        "The file exists according to the database; a client may retry.",
    ),
    "NUL": _difference(
        "status",
        "500.",
        "400.",
        "PostgreSQL cannot hold NUL; it is the client's mistake.",
    ),
    "not UTF-8": _difference(
        "status",
        "404, looking for a name with replacement characters.",
        "400.",
        "The path that was asked for cannot exist.",
    ),
    "long paths": _difference(
        "status",
        "400 by the server, or 404.",
        "414 from 8,191 bytes on.",
        "A clear limit, which bounds the number of prefixes that are looked up.",
    ),
    "repeated slashes": _difference(
        "status",
        "404, but for those after the base path.",
        "They are merged: the file or directory is sent, from one cache entry.",
        "Every web server merges them, and clients rely on it. No name has any: Pulp's API refuses"
        " such names, and synced content with such a name is not served.",
    ),
    "dot segments": _difference(
        "status",
        "Part of the name: `flat/./Packages` is 404.",
        "Removed (RFC 3986 section 5.2.4), after repeated slashes are merged; guards see the path"
        " that is served. 400 for those that leave the content prefix or the domain, and for those"
        " beside `%2F`.",
        "apt's flat repositories (`deb URL/flat/ ./`) use them, and other web servers support it.",
    ),
    "credentials missing": _difference(
        "status",
        "403 where a guard asks for the user and no credentials were sent.",
        "401 with the `WWW-Authenticate` of the first authentication class; 403 for refused ones.",
        "Browsers and pip send a password only when they are asked for it.",
    ),
    "undecodable guard header": _difference(
        "status",
        "500 where a header guard cannot decode the header.",
        "403, as for other wrong values.",
        "It is the client's mistake.",
    ),
    "user name with NUL": _difference(
        "status",
        "500 for a user name with NUL.",
        "403, as for any unknown name.",
        "PostgreSQL cannot hold NUL; it is the client's mistake.",
    ),
    "host": _difference(
        "status",
        "An invalid `Host` header is used as it is, or is 500.",
        "400, as for HTTP/1.1 without one, or any version with two.",
        "RFC 9112 section 3.2.",
    ),
    "probes": _difference(
        "status",
        "`livez` and `readyz` below the prefix are not there.",
        "They report whether the process is alive, and whether it can serve.",
        "Probes that list the root cost a query and a page each time.",
    ),
    "schema": _difference(
        "status body content-length content-type vary cache-control etag content-encoding"
        " x-content-type-options content-security-policy",
        "`openapi.json`, `openapi.yaml` and `docs/` below the prefix are not there.",
        "The OpenAPI document of the content app and its documentation, where no distribution has"
        " that base path.",
        "Content has a schema, as the REST API has one.",
    ),
    "security headers of plugins": _difference(
        "x-content-type-options content-security-policy cache-control",
        "Those of the plugin.",
        "With the same security headers as everything else, unless the plugin sets its own.",
        "They share an origin with the API. All other headers are preserved.",
    ),
    "files of plugins": _difference(
        "etag last-modified x-pulp-artifact-size content-disposition cache-control"
        " x-content-type-options content-security-policy",
        "`FileResponse` and `ArtifactResponse` are sent by two servers' ways, with the mtime's"
        " validators or none.",
        "As every other file. It is shown, not saved, unless the plugin says so.",
        "They can be cached and resumed.",
    ),
    "middlewares of plugins": _difference(
        "x-middleware x-signal",
        "Middlewares and signals that a plugin adds to the content app see every request.",
        "They see requests to routes of plugins only.",
        "Files would have to go through aiohttp, and each plugin could break all others.",
    ),
    "prefix without a slash": _difference(
        "status",
        "404.",
        "301 to the prefix with a slash.",
        "As every other directory.",
    ),
    "cache header": _difference(
        "x-pulp-cache",
        "With `CACHE_ENABLED`, `X-PULP-CACHE` is `MISS` or `HIT` on all that its cache in Redis"
        " takes.",
        "The same for the cache of each process, which has files, listings, redirects to a storage"
        " and 404s. None on HEAD of a listing, files of replaced publications and responses of"
        " plugins, which are not cached. A file that was on demand is a `MISS` before it is a"
        " `HIT`.",
        "It describes the cache that is used.",
    ),
}

# Differences that no single request shows.
FURTHER = {
    "digest of a file": (
        "None in its headers.",
        "`Repr-Digest: sha-256=:...:` (RFC 9530) where the sha256 is known.",
        "Clients can verify downloads, resumed ones included.",
    ),
    "origin of a response": (
        "Not said.",
        "`Cache-Status: pulp; fwd=miss` (RFC 9211) on files that come from a remote.",
        "A HEAD, which fetches nothing, says whether a GET would.",
    ),
    "many clients of one file on demand": (
        "Each has it fetched from the remote.",
        "They share one fetch, also among processes if the file is to be saved.",
        "Remotes limit request rates, and one fetch is faster.",
    ),
    "wrong bytes of a remote": (
        "The end is sent before it is verified, and the connection reset.",
        "The end is held back until all is verified. Small files are requested from other remotes,"
        " and answered with 502 if none has them.",
        "A client must not get a complete file with wrong bytes.",
    ),
    "a remote that breaks in the middle": (
        "The connection is cut.",
        "The rest is requested again, then from other remotes, if the sha256 is known.",
        "The client sees no interruption.",
    ),
    "a remote that is slow": (
        "A try may take 300 seconds, the file included, unless the remote has timeouts.",
        "The first byte has to come within 30 seconds, tries included, and 60 kB in each 60 seconds"
        " then; a remote's own longer timeouts are respected. 504 if the last remote is too slow.",
        "Clients do not wait for 20 minutes, and large files may take longer than 5.",
    ),
    "a remote that does not end": (
        "Written to the disk until it is full, decompressed bytes too.",
        "Cut at 100 times the compressed size, at `CONTENT_STAR_REMOTE_MAX_SIZE` bytes of a file"
        " whose size Pulp does not know, and where the disk has no room for others.",
        "A remote's mistake must not end the service.",
    ),
    "a storage that is slow to save": (
        "The answer ends when the file is saved, however long that takes.",
        "It ends after 5 seconds at the latest, with a warning in the log.",
        "The client gains nothing by waiting longer.",
    ),
    "an unsolicited Content-Encoding": (
        "Undone; a `.gz` file that a server calls encoded fails its digest.",
        "Undone or not, depending on the digest.",
        "The file is the bytes that match its digest.",
    ),
    "ranges of files on demand": (
        "Wrong for suffixes and beyond the end.",
        "As for every other file, as soon as the bytes are there.",
        "RFC 9110 section 14.",
    ),
    "concurrent clients of pull-through": (
        "Each has it fetched from the remote, metadata too.",
        "Those of a process share one fetch. Metadata is cached for `CONTENT_STAR_METADATA_TTL`"
        " seconds, then revalidated, and used while the remote fails.",
        "Issue 5144: each client asks for the same large indexes.",
    ),
    "HEAD of pull-through": (
        "Fetches the whole file, and saves it.",
        "Asks the remote for its headers.",
        "The client does not want the bytes.",
    ),
    "pages for people": (
        "A directory has one form.",
        "Browsers, which prefer `text/html`, get a page with a table, sort links, filter and"
        " instructions, with at most 500 entries; clients that prefer `text/plain` get names. All"
        " others get the list of links.",
        "People find what they came for, and programs what they always found. The setting"
        " `CONTENT_STAR_INDEX` turns it off.",
    ),
    "facts about files": (
        "The query of a file is ignored.",
        "`?info` is a page or JSON about the file, `?checksum=sha256` its digest in the format of"
        " `sha256sum`.",
        "A file can be verified without a manifest.",
    ),
    "dots in paths to remotes": (
        "`..` in a path leads to other folders of the remote's host, with its credentials.",
        "It leads to another path of Pulp, as everywhere, or is 404.",
        "A remote is limited to the paths below its URL.",
    ),
    "dot segments in paths of the API": (
        "404, or whatever a plugin's URL pattern makes of them.",
        "400, percent-encoded ones too, and at prefixes of plugins.",
        "Rules of a server in front go by the beginning of a path, and one process has API and"
        " content.",
    ),
    "long queries": (
        "400 by the server for path and query of over 8,190 bytes.",
        "414 for a query of over 8,190 bytes.",
        "The input of guards and listings is bounded.",
    ),
    "long lists in headers": (
        "Read at any length.",
        "`Accept` of over 1,024 bytes, or 32 types and parameters, is no preference; lists of tags"
        " of over 8,192 bytes match nothing; a correlation id of over 64 characters is replaced.",
        "They are parsed on the event loop, which blocks other requests.",
    ),
    "special characters in paths to remotes": (
        "`%3F` begins a query at the remote, `%2541` is decoded twice.",
        "They are part of the path.",
        "The remote gets the path that the client requested.",
    ),
    "errors of remotes": (
        "The reason phrase has the URL that was requested from the remote.",
        "The body has the status that the remote answered with.",
        "URLs may be signed or have secrets in them.",
    ),
    "files of remotes whose URL changed": (
        "A saved file is fetched again for every client.",
        "It is fetched once from the new URL.",
        "The new URL is recorded.",
    ),
    "file and directory of one name": (
        "The directory wins.",
        "The file wins, with no listing query.",
        "Clients request files; no listing has to be made for that.",
    ),
    "two content units at one path": (
        "500 when two content units of a repository version have one path.",
        "The one added last is served.",
        "The content exists; the newest is most likely the intended one.",
    ),
    "replaced publications that pass through": (
        "Only the repository's files are served in the grace period, not the metadata.",
        "Both are.",
        "Clients have the metadata of that publication (issue 7514).",
    ),
    "unfinished checkpoints": (
        "A checkpoint is served while it is being published.",
        "It is served when it is complete.",
        "An incomplete publication is not the state at that time.",
    ),
    "replaced publications and checkpoints": (
        "A path that a checkpoint lacks is looked up in replaced publications.",
        "404.",
        "It did not exist at that time.",
    ),
    "hidden guarded distributions": (
        "Only the setting `HIDE_GUARDED_DISTRIBUTIONS` hides them.",
        "The domain's own `hide_guarded_distributions` does as well.",
        "Upstream documents it, but does not do it.",
    ),
    "sessions of browsers": (
        "Ignored by content: RBAC guards answer 403.",
        "Users logged in at `/auth/login/` may browse the content that the guard allows.",
        "Content has the origin of the API, so browsers send the cookie.",
    ),
    "checking passwords": (
        "The password's hash is computed for every request, also where no guard asks.",
        "Once a minute (`CONTENT_STAR_BASIC_AUTH_TTL`), and only if a guard asks.",
        "It takes 100 to 250 ms of CPU. Changes of the user still take effect at once.",
    ),
    "wrong passwords": (
        "Checked in the threads of all requests, without a limit.",
        "Checked in two threads, one at a time for each client; failures are delayed, too many get"
        " 429.",
        "Wrong passwords delayed other requests by most of a minute.",
    ),
    "large headers": (
        "16 KiB for one header.",
        "128 KiB and 256 lines for all with our protocol class, else uvicorn's limit or none.",
        "Client certificates can be larger.",
    ),
    "half-closed connections": (
        "A client that has closed its half after a request gets no response.",
        "It gets its response. A client that is gone is detected within two minutes.",
        "As nginx. Both look the same to a server.",
    ),
    "silent connections": (
        "There is no timeout for an incomplete head.",
        "With our protocol class, 408 after `CONTENT_STAR_HEAD_TIMEOUT`; the oldest make room.",
        "A client cannot use up the connections of a process.",
    ),
    "database connections": (
        "A connection that died makes requests fail with 500.",
        "The read is repeated on a new connection; 503 with `Retry-After` if there is none.",
        "Issues 1698, 2293, 2294, 3371.",
    ),
    "a database that does not answer": (
        "Requests hang, for two hours if its host vanishes, or fail with 500.",
        "Cached files are sent for five minutes, with `Cache-Status`; others get 503 with"
        " `Retry-After`, after five seconds at the latest.",
        "Clients can retry elsewhere, and need no restart of the process.",
    ),
    "cache tags": (
        "None.",
        "`Surrogate-Key` and `Cache-Tag` on all responses of a distribution.",
        "A CDN can purge responses that a new publication replaces.",
    ),
    "metrics": (
        "`artifacts.size.counter` counts the sizes of files, and only where domains are on.",
        "It counts the bytes sent, with domains and without.",
        "Ranges, HEAD, 304 and disconnects are counted by the bytes sent.",
    ),
    "caching": (
        "Listings, redirects and errors have no `Cache-Control`.",
        "All responses of a distribution have the one that files have.",
        "Otherwise caches store them by heuristics, guarded ones too.",
    ),
    "heartbeats": (
        "The process ends when a heartbeat fails.",
        "It is logged and repeated; a row that was removed is created again.",
        "A database that is away for a minute should not end downloads.",
    ),
    "working directory": (
        "The process changes to `WORKING_DIRECTORY`.",
        "It stays where it was started. Pulpcore's downloaders use `WORKING_DIRECTORY` anyway,"
        " and so do plugins in threads, where [Linux allows it](bridge.md).",
        "The REST API lives in the same process.",
    ),
    "objects that are streamed through": (
        "Without the redirect, an object of S3 is read into memory before it is sent.",
        "It is streamed in pieces of 256 KiB, at the speed of the client.",
        "Issue 7806: large files end the process.",
    ),
    "stores that fail": (
        "500 for objects that are missing, and for stores that are down.",
        "404 with an error in the log, and 503 with `Retry-After`.",
        "Clients can retry; responses contain neither credentials nor signed URLs.",
    ),
    "client disconnects": (
        "Handlers of plugins continue.",
        "They are cancelled; [the bridge](bridge.md) lists other effects on plugins.",
        "Their response has no receiver.",
    ),
    "WebSockets": (
        "A handler of a plugin could use them.",
        "Refused with 501.",
        "No plugin does.",
    ),
    "errors in detail": (
        "The HTTP reason phrase carries the reason.",
        "The body does; reason phrases are the standard ones.",
        "ASGI has none, and HTTP/2 neither.",
    ),
}
