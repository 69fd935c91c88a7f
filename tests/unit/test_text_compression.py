"""Which generated responses are compressed."""

import gzip

import pytest
from starlette.responses import JSONResponse

from pulpcore.content_star.middleware import health
from pulpcore.content_star.responses.text import MIN_COMPRESSED_SIZE, compress

GZIP = {"headers": [(b"accept-encoding", b"gzip")]}
PLAIN = {"headers": [(b"accept-encoding", b"gzip;q=0, br")]}


@pytest.mark.parametrize(("size", "is_compressed"), [(-1, False), (0, True), (5000, True)])
def test_responses_from_a_size_on_are_compressed(size, is_compressed):
    text = "x" * (MIN_COMPRESSED_SIZE + size - 2)
    response = compress(GZIP, JSONResponse(text, headers={"Vary": "Accept"}))
    assert response.headers["Content-Length"] == str(len(response.body))
    if is_compressed:
        assert gzip.decompress(response.body) == f'"{text}"'.encode()
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
    else:
        assert response.body == f'"{text}"'.encode()
        assert "Content-Encoding" not in response.headers
        assert response.headers["Vary"] == "Accept"


def test_clients_without_gzip_get_the_text_and_vary():
    text = "x" * MIN_COMPRESSED_SIZE
    response = compress(PLAIN, JSONResponse(text))
    assert response.body == f'"{text}"'.encode()
    assert "Content-Encoding" not in response.headers
    assert response.headers["Vary"] == "Accept-Encoding"


@pytest.mark.anyio
async def test_readyz_json_of_many_plugins_is_compressed(monkeypatch):
    monkeypatch.setattr(health.discovery, "as_json", lambda: [{"label": "plugin"}] * 100)
    probe = health.Health(None, None, "/pulp/content/")  # type: ignore[arg-type]

    async def no_problem() -> None:
        return None

    monkeypatch.setattr(probe, "_problem", no_problem)
    headers = [*GZIP["headers"], (b"accept", b"application/json")]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    response = await probe.ready(health.Request(scope))
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
    assert b'"label":"plugin"' in gzip.decompress(response.body)
