"""A header with an underscore is another one than that with a dash, for content and for the API."""

import pytest

from pulpcore.content_star.auth.authentication import authenticate
from pulpcore.content_star.auth.guards import GuardRequest
from pulpcore.content_star.django_app.handler import Request
from pulpcore.content_star.django_app.request_body import ReadBody
from tests.unit.test_guards import guarded, make_request

NAMES = [b"x_client_cert", b"x_client-cert", b"x-client_cert"]


@pytest.mark.parametrize("name", NAMES)
def test_underscored_header_does_not_pass_for_the_dashed_one(name):
    spoofed = make_request(headers=[(name, b"admin")])
    assert "HTTP_X_CLIENT_CERT" not in authenticate(spoofed.scope).META, "content"
    assert "HTTP_X_CLIENT_CERT" not in Request(spoofed.scope, ReadBody(b"")).META, "the API"
    assert "X-CLIENT-CERT" not in GuardRequest(spoofed, guarded(None), "").headers, "guards"


@pytest.mark.parametrize("name", NAMES)
def test_underscored_header_adds_nothing_to_the_dashed_one(name):
    both = make_request(headers=[(b"x-client-cert", b"proxy"), (name, b"admin")])
    assert authenticate(both.scope).META["HTTP_X_CLIENT_CERT"] == "proxy"
    assert Request(both.scope, ReadBody(b"")).META["HTTP_X_CLIENT_CERT"] == "proxy"
