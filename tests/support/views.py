"""Django views of tests, served by a uvicorn in this process."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import uvicorn
from django.conf import settings
from django.test import override_settings
from django.urls import clear_url_caches, path

from pulpcore.content_star.django_app.handler import create_api
from tests.support.instance import wait_until


@contextmanager
def serving_views(*views: Callable[..., Any], **changed: object) -> Iterator[str]:
    """Serve each view at the path of its name, with overridden settings; yield the server's URL."""
    urls = import_module(settings.ROOT_URLCONF)
    earlier = urls.urlpatterns
    with override_settings(**changed):
        urls.urlpatterns = [path(view.__name__, view) for view in views]
        clear_url_caches()
        try:
            with _serving(create_api()) as url:
                yield url
        finally:
            urls.urlpatterns = earlier
            clear_url_caches()


@contextmanager
def _serving(app: Any) -> Iterator[str]:
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
