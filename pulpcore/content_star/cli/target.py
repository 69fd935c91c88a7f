"""Target server of a command: the Pulp of `pulp-star up`, or another one by URL."""

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pulpcore.content_star.cli.state import State, home_option

if TYPE_CHECKING:
    from pulpcore.content_star.cli.pulp import Pulp


@dataclass(frozen=True)
class Target:
    """A Pulp server and the credentials for it."""

    state: State
    url: str | None
    username: str
    password: str | None
    timeout: float

    @contextmanager
    def connect(self) -> Iterator["Pulp"]:
        """Log in for the block; errors of the server become one line."""
        from pulpcore.content_star.cli.pulp import Pulp, one_line_errors

        # Raises KeyboardInterrupt, so that tasks are cancelled and temporary objects deleted.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        url, username, password = self.url, self.username, self.password
        if url is None:
            url, username, password = self.state.load().url, "admin", self.state.password
            # where pulp-glue caches the API schema
            os.environ["XDG_CACHE_HOME"] = str(self.state.cache)
        elif password is None:
            password = click.prompt("Password", hide_input=True, err=True)
        with (
            one_line_errors(url, username),
            closing(Pulp(url, username, password, self.timeout)) as pulp,
        ):
            yield pulp


_TASK_TIMEOUT = 300.0
"""Seconds that a task may take without progress, by default."""

_task_timeout_option = click.option(
    "--timeout",
    default=_TASK_TIMEOUT,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Seconds that one of Pulp's tasks may take without any progress.",
)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the target server to a command, which gets a `target`."""
    return _task_timeout_option(target_options_without_tasks(command))


def target_options_without_tasks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the same options to a command that runs no tasks."""

    @click.option("--url", help="Another Pulp's API, as in https://pulp.example.com")
    @click.option("--username", default="admin", show_default=True, help="User of another Pulp.")
    @click.option("--password", help="Password of another Pulp's user; asked for if it is missing.")
    @home_option
    @functools.wraps(command)
    def with_target(
        *arguments: Any,
        state: State,
        url: str | None,
        username: str,
        password: str | None,
        timeout: float = _TASK_TIMEOUT,
        **options: Any,
    ) -> Any:
        target = Target(state, url, username, password, timeout)
        return command(*arguments, target=target, **options)

    return with_target
