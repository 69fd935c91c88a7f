"""Prefixes that plugins may have, and those they may not."""

from collections.abc import Iterator

import pytest
from starlette.responses import PlainTextResponse

from pulpcore.content_star.distributions.registry import AlreadyServed
from pulpcore.content_star.plugin_host import mounts
from pulpcore.content_star.plugin_host.mounts import Mounts, mount
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
def test_nothing_of_pulps_own_is_hidden(prefix):
    with pytest.raises(ValueError, match="Pulp itself"):
        mount(prefix, PlainTextResponse("mine"))
    assert mounts.all_mounted() == {}


@pytest.mark.parametrize("prefix", ["/", "", "/x", "x/"])
def test_a_prefix_begins_and_ends_with_a_slash(prefix):
    with pytest.raises(ValueError, match="slash"):
        mount(prefix, PlainTextResponse("mine"))


def test_two_cannot_have_the_same():
    mount("/pulp/container/", PlainTextResponse("first"))
    with pytest.raises(AlreadyServed, match="/pulp/container/"):
        mount("/pulp/container/", PlainTextResponse("second"))


def test_the_longest_prefix_counts():
    mount("/v2/", PlainTextResponse("short"))
    mount("/v2/long/", PlainTextResponse("long"))
    app = Mounts(PlainTextResponse("content"))
    assert get(app, "/v2/x").text == "short"
    assert get(app, "/v2/long/x").text == "long"
    assert get(app, "/v2").text == "short", "with or without the slash"
    assert get(app, "/x/v2/x").text == "content"
    assert get(app, "/x/v2/x", root_path="/x").text == "short"
