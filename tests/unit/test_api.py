"""What plugins find in a request beyond what Django's ASGI handler gives."""

from io import BytesIO

from pulpcore.content_star.api import create_api


def test_the_body_is_where_wsgi_has_it():
    """pulp_container and pulp_maven read it there; Django goes on where they stopped."""
    scope = {"type": "http", "method": "PUT", "path": "/", "query_string": b"", "headers": []}
    request, _ = create_api().create_request(scope, BytesIO(b"0123456789"))
    assert request.META["wsgi.input"].read(4) == b"0123"
    assert request.read() == b"456789"
