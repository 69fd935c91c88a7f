"""Which application gets which URL."""

import pytest
from starlette.responses import PlainTextResponse

from pulpcore.routing import Router
from tests.asgi import get

ROUTER = Router(
    content=PlainTextResponse("content"),
    django=PlainTextResponse("django"),
    content_prefix="/pulp/content/",
)


@pytest.mark.parametrize(
    ("path", "application"),
    [
        ("/pulp/content/", "content"),
        ("/pulp/content", "content"),
        ("/pulp/content/a/b", "content"),
        ("/pulp%2Fcontent/a", "content"),
        ("/pulp/contents/", "django"),
        ("/pulp/api/v3/", "django"),
        ("/pulp/", "django"),
        ("/", "django"),
        ("/x/pulp/content/", "django"),
    ],
)
def test_content_goes_to_content_and_the_rest_to_django(path, application):
    assert get(ROUTER, path).text == application


def test_a_root_path_is_no_part_of_the_prefix():
    assert get(ROUTER, "/mounted/pulp/content/a", root_path="/mounted").text == "content"
    assert get(ROUTER, "/mounted/pulp/api/", root_path="/mounted").text == "django"
