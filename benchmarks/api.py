"""The REST API: CPU of the server for a request, ours and `pulpcore-api`'s in turns.

python -m benchmarks.api [--rounds N] [--case NAME] [--against CHECKOUT]
"""

import argparse
import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.footprint import STATUS, api
from benchmarks.measure import cpu_seconds
from benchmarks.servers import OURS, Contestant, other, pulp
from tests.support.pulp import API, FINAL_STATES, unique

THEIRS = Contestant("pulpcore-api", api)
CLIENTS = (1, 8)
REQUESTS = 120
"""Requests of a measurement, divided among the clients."""

LISTED = 20
UPLOAD_SIZE = 1_000_000


class Session:
    """A browser's session, so that no password is hashed while CPU is measured."""

    def __init__(self, username: str) -> None:
        self.cookies = {"sessionid": _log_in(username), "csrftoken": uuid.uuid4().hex}

    def client(self, url: str) -> httpx.Client:
        """Return a client of a server; `pulpcore-api` closes each connection, ours keeps it.

        For less than the 5 seconds after which uvicorn closes it, while other servers have turns.
        """
        headers = {"X-CSRFToken": self.cookies["csrftoken"]}
        cookies = httpx.Cookies(self.cookies)
        return httpx.Client(
            base_url=url,
            cookies=cookies,
            headers=headers,
            trust_env=False,
            timeout=120,
            limits=httpx.Limits(keepalive_expiry=2),
        )


def _log_in(username: str) -> str:
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore

    user = User.objects.get(username=username)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


@dataclass(frozen=True)
class Repositories:
    """URLs of the requests."""

    detail: str
    task: str

    @classmethod
    def make(cls, client: httpx.Client) -> "Repositories":
        hrefs = [_create(client).json()["pulp_href"] for _ in range(LISTED)]
        response = client.patch(hrefs[0], json={"description": "changed"})
        task = response.raise_for_status().json()["task"]
        while client.get(task).json()["state"] not in FINAL_STATES:
            pass
        return cls(hrefs[0], task)


Ask = Callable[[httpx.Client, Repositories], httpx.Response]


def _create(client: httpx.Client, *_: Any) -> httpx.Response:
    return client.post(f"{API}repositories/file/file/", json={"name": unique("repository")})


def _upload(client: httpx.Client, *_: Any) -> httpx.Response:
    return client.post(f"{API}artifacts/", files={"file": ("file", os.urandom(UPLOAD_SIZE))})


CASES: dict[str, Ask] = {
    "status": lambda client, _: client.get(STATUS),
    "list": lambda client, _: client.get(f"{API}repositories/file/file/?limit={LISTED}"),
    "detail": lambda client, made: client.get(made.detail),
    "task": lambda client, made: client.get(made.task),
    "create": _create,
    "upload of 1 MB": _upload,
}


def load(ask: Ask, clients: Sequence[httpx.Client], made: Repositories, requests: int) -> None:
    """Have each client send its share of `requests`, one after the other."""

    def send(client: httpx.Client) -> None:
        for _ in range(requests // len(clients)):
            ask(client, made).raise_for_status()

    with ThreadPoolExecutor(len(clients)) as pool:
        for future in [pool.submit(send, client) for client in clients]:
            future.result()


def measure(
    contestants: Sequence[Contestant], cases: dict[str, Ask], rounds: int
) -> dict[tuple[str, int], dict[Contestant, list[float]]]:
    """Return CPU milliseconds for a request, of each round in which the servers took turns."""
    found: dict[tuple[str, int], dict[Contestant, list[float]]] = {}
    with pulp() as instance, ExitStack() as stack:
        session = Session(instance.username)
        servers = {each: stack.enter_context(each.start(instance)) for each in contestants}
        clients = {
            each: [stack.enter_context(session.client(server.url)) for _ in range(max(CLIENTS))]
            for each, server in servers.items()
        }
        made = Repositories.make(clients[contestants[0]][0])
        for name, ask in cases.items():
            for each in contestants:
                load(ask, clients[each], made, 8 * max(CLIENTS))  # modules imported late, threads
            for count in CLIENTS:
                results = found[name, count] = {each: [] for each in contestants}
                for _ in range(rounds):
                    for each in contestants:
                        before = cpu_seconds(servers[each])
                        load(ask, clients[each][:count], made, REQUESTS)
                        spent = cpu_seconds(servers[each]) - before
                        results[each].append(spent / REQUESTS * 1000)
                        progress = f"{name}, {count}: {each.name} {results[each][-1]:.2f} ms"
                        print(progress, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.api", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--against", type=Path, help="another checkout, as one more server")
    arguments = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    contestants = [OURS, THEIRS]
    if arguments.against:
        contestants.append(other(arguments.against))
    cases = {name: CASES[name] for name in arguments.case or CASES}
    results = measure(contestants, cases, arguments.rounds)
    names = " | ".join(each.name for each in contestants)
    print(f"| CPU ms for a request | clients | {names} | ours is, times pulpcore-api |")
    print(f"| --- | --- | {' | '.join('---' for _ in contestants)} | --- |")
    for (name, count), times in results.items():
        cells = " | ".join(f"{median(times[each]):.2f}" for each in contestants)
        pairs = zip(times[OURS], times[THEIRS], strict=True)
        ratio = median(ours / theirs for ours, theirs in pairs)
        print(f"| {name} | {count} | {cells} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
