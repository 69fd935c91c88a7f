"""Limits of what a connection may send, and timeouts of what it waits for."""

HEAD_BYTES = 128 * 1024
"""Limit of request line and headers, one of which may be a client certificate, and of framing."""
TARGET_BYTES = 16 * 1024
"""Limit of the request target: twice the default of nginx, and four times that of gunicorn."""
HEADERS = 256
"""Maximum number of headers of a request; gunicorn's default is 100."""
PIPELINE = 16
"""Maximum number of pipelined requests in the queue: apt sends ten."""
MIN_PARSE_BYTES = 256
"""Minimum bytes that are parsed at once with pipelining: they have at most 14 requests."""
TLS_BUFFER_BYTES = 64 * 1024
"""Bytes in the buffer of a TLS connection above which a response waits, as without TLS: event loops
have a limit of 512 KiB for it, for each slow client."""
MAX_FRAMING_RATIO = 16
"""Maximum bytes of chunked framing per byte of the body: a chunk of one byte has six."""
HALF_CLOSED_TIMEOUT = 30.0
"""Seconds without data after which a half-closed connection is taken for closed: its client may
have left while the response stalls. Clients that half-close and wait longer are unlikely."""
SHUTDOWN_GRACE = 1.0
"""Seconds in which a request is still accepted on an idle connection during shutdown."""
LINGER_TIMEOUT = 5.0
"""Seconds for a client to read an error response, while its data is dropped (lingering close)."""
