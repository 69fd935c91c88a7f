"""Django views: `tasks/<name>` runs a task of `tasks.py` with the query as its arguments."""

import os
from importlib.util import find_spec
from uuid import uuid4

from django.http import HttpRequest, JsonResponse
from django.urls import path

from pulpcore.plugin.tasking import dispatch


def run(request: HttpRequest, name: str) -> JsonResponse:
    task = dispatch(
        f"pulp_tasking.app.tasks.{name}",
        kwargs=request.GET.dict(),
        exclusive_resources=[f"prn:tasking:{uuid4()}"],
        immediate=True,
        deferred=False,
    )
    return JsonResponse({"state": task.state, "result": task.result, "error": task.error})


def set_umask(request: HttpRequest) -> JsonResponse:
    os.umask(0o077)
    return JsonResponse({})


def is_importable(request: HttpRequest, name: str) -> JsonResponse:
    return JsonResponse({"result": find_spec(name) is not None})


urlpatterns = [
    path("pulp/tasking/tasks/<name>", run),
    path("pulp/tasking/umask", set_umask),
    path("pulp/tasking/importable/<name>", is_importable),
]
