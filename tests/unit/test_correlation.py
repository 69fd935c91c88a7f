"""Correlation ids in responses and log lines."""

from uuid import RFC_4122, UUID, uuid4

import pytest
from django_guid import get_guid
from starlette.responses import PlainTextResponse

from pulpcore.content_star.middleware.correlation_id import CorrelationId
from tests.support.asgi import get


async def show_id(scope, receive, send):
    await PlainTextResponse(get_guid())(scope, receive, send)


def test_generated_correlation_id_is_the_same_in_log_and_response():
    answers = [get(CorrelationId(show_id), "/") for _ in range(50)]
    made = [answer.headers["Correlation-ID"] for answer in answers]
    assert made == [answer.text for answer in answers]
    assert len(set(made)) == 50
    for each in made:
        assert len(each) == 32
        assert (UUID(each).version, UUID(each).variant) == (4, RFC_4122)


@pytest.mark.parametrize(
    "given", ["{made}" + "-" * 1_000_000, "{{" * 500_000 + "{made}", "{made}" * 2, ""]
)
def test_correlation_id_of_another_length_is_replaced(given):
    """A UUID with a million hyphens is one: it would be in each line of the log."""
    sent = given.format(made=uuid4().hex)
    assert len(get(CorrelationId(show_id), "/", {"Correlation-ID": sent}).text) == 32
    assert get(CorrelationId(show_id), "/", {"Correlation-ID": sent}).text != sent


@pytest.mark.parametrize("given", ["{id}", "{id.hex}", "{{{id}}}", "{id.urn}"])
def test_correlation_id_that_is_a_uuid_is_accepted(given):
    sent = given.format(id=uuid4())
    assert get(CorrelationId(show_id), "/", {"Correlation-ID": sent}).text == sent


def test_cached_response_headers_collect_no_correlation_ids():
    response = PlainTextResponse("same")
    app = CorrelationId(response)
    for _ in range(2):
        assert len(get(app, "/").headers.get_list("Correlation-ID")) == 1
