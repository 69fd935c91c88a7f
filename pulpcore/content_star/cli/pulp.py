"""Client of a Pulp server, with pulp-glue; errors become one line."""

import ipaddress
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import click
import requests
from pulp_glue.common.authentication import BasicAuthProvider
from pulp_glue.common.context import PulpContext
from pulp_glue.common.exceptions import (
    PulpAuthenticationFailed,
    PulpException,
    PulpHTTPError,
    PulpNotAutorized,
)

Task = dict[str, Any]

POLL_SECONDS = 0.2
CHUNK_SIZE = 32 * 1024 * 1024
"""Files above this size are uploaded in chunks: requests holds a whole body in memory."""

_LOGIN = "/pulp/api/v3/login/"
_ENDED = ("completed", "failed", "canceled")


class Pulp:
    """A Pulp server and a session of one user."""

    def __init__(self, url: str, username: str, password: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self.username = username
        self.timeout = timeout
        self._session: dict[str, str] = {}
        if self.is_here:
            _bypass_proxy(self._host)
        versions = self._versions()
        self._credentials = self._log_in(password)
        self.context = self._context()
        if versions != self.context.component_versions:
            # pulp-glue caches the API schema by URL, which is that of another Pulp or version.
            self.context = self._context(refresh=True)

    @property
    def _host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def is_here(self) -> bool:
        """Return whether the server, and so its worker, is at a loopback address."""
        if self._host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self._host).is_loopback
        except ValueError:
            return False

    def _context(self, refresh: bool = False) -> PulpContext:
        arguments = {"base_url": f"{self.url}/", "refresh_cache": refresh, **self._credentials}
        return PulpContext("/pulp/", arguments, timeout=0, chunk_size=CHUNK_SIZE)

    def _log_in(self, password: str) -> dict[str, Any]:
        """Log in for a session, because each password check takes a quarter of a second.

        A Pulp without the login endpoint gets the password with each request.
        """
        response = requests.post(
            f"{self.url}{_LOGIN}", auth=(self.username, password), timeout=60, allow_redirects=False
        )
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            raise PulpAuthenticationFailed("login")
        if response.status_code != HTTPStatus.CREATED or "csrftoken" not in response.cookies:
            return {"auth_provider": BasicAuthProvider(self.username, password)}
        self._session = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in response.cookies.items()),
            "X-CSRFToken": str(response.cookies["csrftoken"]),
            "Referer": self.url,
        }
        return {"headers": self._session}

    def close(self) -> None:
        """Log out."""
        if self._session:
            with suppress(requests.RequestException):
                requests.delete(f"{self.url}{_LOGIN}", headers=self._session, timeout=60)

    def _versions(self) -> dict[str, str]:
        response = requests.get(f"{self.url}/pulp/api/v3/status/", timeout=60)
        try:
            response.raise_for_status()
            entries = response.json()["versions"]
            return {entry["component"]: entry["version"] for entry in entries}
        except (requests.HTTPError, ValueError, KeyError, TypeError) as error:
            raise click.ClickException(
                f"{self.url} is not the URL of a Pulp server: {error}"
            ) from error

    def run(
        self,
        call: Callable[..., Task],
        *arguments: object,
        on_progress: Callable[[Task], object] = lambda task: None,
        **options: object,
    ) -> Task:
        """Make a call of pulp-glue that starts a task, and wait for the task.

        Raises `click.ClickException` if it fails or makes no progress for `timeout` seconds.
        """
        result = call(*arguments, non_blocking=True, **options)
        if not result or "progress_reports" not in result:  # some versions of Pulp start no task
            return result
        return self._wait(result, on_progress)

    def _wait(self, task: Task, on_progress: Callable[[Task], object]) -> Task:
        """Wait for a task while it makes progress; cancel it on an error."""
        seen: object = None
        try:
            while task["state"] not in _ENDED:
                now = (task["state"], [report["done"] for report in task["progress_reports"]])
                if now != seen:
                    seen, deadline = now, time.monotonic() + self.timeout
                if time.monotonic() > deadline:
                    raise click.ClickException(self._stuck(task))
                time.sleep(POLL_SECONDS)
                task = self.context.call("tasks_read", parameters={"task_href": task["pulp_href"]})
                on_progress(task)
        except BaseException:
            self._cancel(task)
            raise
        if task["state"] != "completed":
            raise click.ClickException(_failure(task))
        return task

    def _stuck(self, task: Task) -> str:
        hint = " Check that a worker is running." if task["state"] == "waiting" else ""
        return (
            f"The task {task['name']} has been {task['state']} for {self.timeout:.0f} s "
            f"without progress.{hint}"
        )

    def _cancel(self, task: Task) -> None:
        parameters, body = {"task_href": task["pulp_href"]}, {"state": "canceled"}
        try:
            self.context.call("tasks_cancel", parameters=parameters, body=body, non_blocking=True)
        except PulpException:
            return  # it has ended, or Pulp is gone; the first error is raised


@contextmanager
def one_line_errors(url: str, username: str) -> Iterator[None]:
    """Convert errors of the server to `click.ClickException` with one line."""
    try:
        yield
    except PulpAuthenticationFailed:
        message = f"Login failed: {url} does not know the user {username} with this password."
    except PulpNotAutorized as error:
        message = f"The user {username} may not do this on {url} ({error.operation_id})."
    except PulpHTTPError as error:
        message = f"Pulp refused ({error.status_code}): {_error_text(str(error))}"
    except requests.ConnectionError:
        message = f"No server answers at {url}. Check that `pulp-star up` is running there."
    except (PulpException, OSError) as error:  # requests' errors are OSErrors
        message = f"Cannot talk to Pulp at {url}: {error}"
    else:
        return
    raise click.ClickException(message)


def _failure(task: Task) -> str:
    error = task.get("error") or {}
    reason = error.get("description") or error.get("reason") or "no reason given"
    return f"The task {task['name']} {task['state']}: {reason}"


def _error_text(body: str) -> str:
    """Return the messages in a JSON error body as text."""
    try:
        return "; ".join(_texts(json.loads(body)))
    except ValueError:
        return body[:500]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from (f"{name}: {text}" for text in _texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    else:
        yield str(value)


def _bypass_proxy(host: str) -> None:
    """Add a host to `no_proxy`, so that requests to this machine use no proxy."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = ",".join(filter(None, [known, host]))
