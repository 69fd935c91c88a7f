"""Prefixes at which plugins may mount routes."""

from collections.abc import Iterator

import pytest
from starlette.responses import PlainTextResponse

from pulpcore.content_star.distributions.registry import AlreadyServed
from pulpcore.content_star.plugin_host import mounts
from pulpcore.content_star.plugin_host.mounts import Mounts, mount_app
from tests.support.asgi import get


@pytest.fixture(autouse=True)
def nothing_mounted() -> Iterator[None]:
    earlier = mounts.all_mounted()
    mounts.restore({})
    yield
    mounts.restore(earlier)


@pytest.mark.parametrize(
    "prefix",
    [
        "/pulp/content/",
        "/pulp/content/below/",
        "/pulp/api/",
        "/pulp/api/v3/below/",
        "/pulp/",
        "/assets/",
        "/assets/below/",
        "/auth/login/",
    ],
)
def test_mount_over_a_path_of_pulp_is_refused(prefix):
    with pytest.raises(ValueError, match="Pulp itself"):
        mount_app(prefix, PlainTextResponse("mine"))
    assert mounts.all_mounted() == {}


@pytest.mark.parametrize("prefix", ["/", "", "/x", "x/"])
def test_mount_prefix_without_slashes_is_refused(prefix):
    with pytest.raises(ValueError, match="slash"):
        mount_app(prefix, PlainTextResponse("mine"))


def test_mount_at_a_mounted_prefix_is_refused():
    mount_app("/pulp/container/", PlainTextResponse("first"))
    with pytest.raises(AlreadyServed, match="/pulp/container/"):
        mount_app("/pulp/container/", PlainTextResponse("second"))


def test_mount_with_the_longest_prefix_responds():
    mount_app("/v2/", PlainTextResponse("short"))
    mount_app("/v2/long/", PlainTextResponse("long"))
    app = Mounts(PlainTextResponse("content"))
    assert get(app, "/v2/x").text == "short"
    assert get(app, "/v2/long/x").text == "long"
    assert get(app, "/v2").text == "short", "with or without the slash"
    assert get(app, "/x/v2/x").text == "content"
    assert get(app, "/x/v2/x", root_path="/x").text == "short"
