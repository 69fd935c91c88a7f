"""Fixtures of the functional tests: the content app in the test process, and remotes."""

import asyncio
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest
from django.conf import settings
from starlette.types import ASGIApp

from pulpcore.content_star.content import Content
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.middleware.cdn_headers import CDNHeaders
from pulpcore.content_star.middleware.correlation_id import CorrelationId
from pulpcore.content_star.middleware.errors import Errors
from tests.support.asgi import get
from tests.support.certificates import Authority
from tests.support.instance import Instance
from tests.support.orm import Orm
from tests.support.remote_files import MakeRemoteFile, RemoteFiles
from tests.support.remote_server import Upstream, serving_upstream
from tests.support.resources import with_resources


@pytest.fixture(scope="session")
def app(instance) -> Iterator[ASGIApp]:
    """The content app in this process, in which tests can patch plugins and page sizes."""
    executor = DatabaseExecutor(threads=2)
    content = Errors(Content(executor, settings.CONTENT_PATH_PREFIX))
    yield with_resources(CorrelationId(CDNHeaders(content)), executor)
    asyncio.run(executor.close())


@pytest.fixture(scope="module")
def module_orm(instance: Instance) -> Iterator[Orm]:
    """As `orm`, for objects that all tests of a module share."""
    models = Orm()
    yield models
    models.cleanup()


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    """An HTTP server for remotes to point at."""
    with serving_upstream() as running:
        yield running


@pytest.fixture(scope="session")
def tls_options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a uvicorn with a certificate of its own."""
    folder, options = tmp_path_factory.mktemp("tls"), []
    for name, pem in zip(("cert", "key"), Authority().pair(), strict=True):
        path = folder / name
        path.write_text(pem)
        options += [f"--ssl-{name}file", str(path)]
    return options


@pytest.fixture
def remote_file(server: Upstream, instance, orm) -> Iterator[MakeRemoteFile]:
    """Return a function that creates on-demand files."""
    files = RemoteFiles(server)
    yield files.make
    files.cleanup()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts no connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        queue = [socket.socket() for _ in range(3)]
        for each in queue:
            each.setblocking(False)
            each.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/"
        for each in queue:
            each.close()


@pytest.fixture
def get_in_process(instance, orm) -> Callable[..., httpx.Response]:
    """Return a function that GETs a path with the content app in this process, with downloads."""

    def get_path(path: str, **settings_of_resources: float) -> httpx.Response:
        executor = DatabaseExecutor(1)
        content = Errors(Content(executor, settings.CONTENT_PATH_PREFIX))
        try:
            app = with_resources(content, executor, **settings_of_resources)
            return get(app, settings.CONTENT_PATH_PREFIX + path)
        finally:
            asyncio.run(executor.close())

    return get_path
