"""Nice value of the threads that handle API requests, and settings that are invalid."""

import os
import threading

import httpx
import pytest
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from tests.support.views import serving_views

LARGE_BODY = bytes(1_000_000)


def nice_of_thread() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@csrf_exempt
def nice(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(nice_of_thread()))


@pytest.mark.parametrize(
    ("changed", "added"),
    [({}, 3), ({"CONTENT_STAR_API_NICE": 0}, 0), ({"CONTENT_STAR_API_NICE": 10**10}, 39)],
)
def test_api_threads_are_nicer_than_others_by_the_setting(instance, changed, added):
    own = nice_of_thread()
    expected = min(own + added, 19)
    with serving_views(nice, **changed) as url:
        assert int(httpx.get(f"{url}/nice").text) == expected
        assert int(httpx.post(f"{url}/nice", content=LARGE_BODY).text) == expected
    assert nice_of_thread() == own


def test_api_works_where_the_nice_value_cannot_be_changed(instance, monkeypatch):
    def denied(increment: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "nice", denied)
    with serving_views(nice) as url:
        assert int(httpx.get(f"{url}/nice").text) == nice_of_thread()


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("API_NICE", "@none", "a whole number from 0"),
        ("API_THREADS", "0", "a whole number from 1"),
        ("DATABASE_TIMEOUT", "0", "a number of more than 0"),
        ("GC_THRESHOLDS", "(700, 10, 100)", "such as [700, 10, 100]"),
        ("MAX_BODY_SIZE", "10MB", "a number from 0, or None"),
        ("SENDFILE", "true", "a string"),
    ],
)
def test_process_does_not_start_with_a_setting_that_is_invalid(instance, name, value, needed):
    environ = {f"PULP_CONTENT_STAR_{name}": value}
    failed = instance.run(["python", "-c", "import pulpcore.routing"], check=False, **environ)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()[-1:]
    assert f"ImproperlyConfigured: CONTENT_STAR_{name} is " in line and needed in line
