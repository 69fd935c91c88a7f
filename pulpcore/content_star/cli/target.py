"""Which Pulp a command works on: that of `pulp-star up`, or another one by its URL."""

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
    """A Pulp server, and the user to be there."""

    state: State
    url: str | None
    username: str
    password: str | None
    timeout: float

    @contextmanager
    def connect(self) -> Iterator["Pulp"]:
        """Log in, and out in the end; errors of the server become one line."""
        from pulpcore.content_star.cli.pulp import Pulp, clear_errors

        # A way out that cleans up in Pulp, too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        url, username, password = self.url, self.username, self.password
        if url is None:
            url, username, password = self.state.load().url, "admin", self.state.password
            # where pulp-glue puts the API's description
            os.environ["XDG_CACHE_HOME"] = str(self.state.cache)
        elif password is None:
            password = click.prompt("Password", hide_input=True, err=True)
        with (
            clear_errors(url, username),
            closing(Pulp(url, username, password, self.timeout)) as pulp,
        ):
            yield pulp


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose a Pulp, which give the command a `target`."""

    @click.option("--url", help="Another Pulp's API, as in https://pulp.example.com")
    @click.option("--username", default="admin", show_default=True, help="User of another Pulp.")
    @click.option("--password", help="Password of another Pulp's user; asked for if it is missing.")
    @click.option(
        "--timeout",
        default=300.0,
        show_default=True,
        type=click.FloatRange(min=1),
        help="Seconds that one of Pulp's tasks may take without any progress.",
    )
    @home_option
    @functools.wraps(command)
    def with_target(
        *arguments: Any,
        state: State,
        url: str | None,
        username: str,
        password: str | None,
        timeout: float,
        **options: Any,
    ) -> Any:
        target = Target(state, url, username, password, timeout)
        return command(*arguments, target=target, **options)

    return with_target
