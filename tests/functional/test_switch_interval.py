"""Python's switch interval while views run (CONTENT_STAR_SWITCH_INTERVAL)."""

import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from pulpcore.content_star.django_app.switch_interval import SwitchInterval
from tests.support.instance import wait_until
from tests.support.views import serving_views

_finish = threading.Event()


def interval(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(sys.getswitchinterval()))


def interval_of_stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        yield str(sys.getswitchinterval())
        _finish.wait()

    return StreamingHttpResponse(body())


@pytest.mark.parametrize("seconds", [0.002, None])
def test_switch_interval_is_that_of_the_setting_while_a_view_runs(instance, seconds):
    before = sys.getswitchinterval()
    with serving_views(interval, CONTENT_STAR_SWITCH_INTERVAL=seconds) as url:
        assert float(httpx.get(f"{url}/interval").text) == pytest.approx(seconds or before)
        wait_until(lambda: sys.getswitchinterval() == before)


def test_switch_interval_lasts_until_the_last_of_several_views(instance):
    before = sys.getswitchinterval()
    _finish.clear()
    with (
        serving_views(interval, interval_of_stream, CONTENT_STAR_SWITCH_INTERVAL=0.002) as url,
        httpx.stream("GET", f"{url}/interval_of_stream") as stream,
    ):
        try:
            for _ in range(2):
                assert float(httpx.get(f"{url}/interval").text) == pytest.approx(0.002)
            assert sys.getswitchinterval() == pytest.approx(0.002)
        finally:
            _finish.set()
        assert float(stream.read()) == pytest.approx(0.002)
        wait_until(lambda: sys.getswitchinterval() == before)


def test_switch_interval_that_python_cannot_count_is_long():
    before = sys.getswitchinterval()
    with SwitchInterval(1e300):
        assert sys.getswitchinterval() == pytest.approx(1e9)
    assert sys.getswitchinterval() == before


def test_switch_interval_that_python_refuses_fails_each_time():
    interval = SwitchInterval(0)
    for _ in range(2):
        with pytest.raises(ValueError, match="strictly positive"), interval:
            pass
