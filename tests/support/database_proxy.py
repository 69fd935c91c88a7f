"""A TCP proxy in front of PostgreSQL that can stop forwarding, vanish, or refuse connections.

It can also reset a connection during a COMMIT.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import connection

from tests.support.instance import Instance


class DatabaseProxy:
    """Forwards to a server, whose connections belong to a host that can fail.

    `stop` is a host that hangs or whose packets are dropped: connections stay open, and nothing is
    forwarded. After `replace`, these stay silent for ever, and new ones are served: a failover
    without FIN. `refuse` is a server that is not running.
    """

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.port = 0
        self.accepted = 0
        """Connections so far."""
        self.lost_commits = 0
        """Connections so far that were reset during a COMMIT."""
        self._losing: tuple[bytes, bool] | None = None
        self.is_refusing = False
        self._gate = asyncio.Event()
        """Set while connections are forwarded. `replace` leaves the one of earlier ones unset."""
        self._gate.set()
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Forward nothing from now on."""
        self._call(self._gate.clear)

    def resume(self) -> None:
        """Forward again, all that has been sent since `stop` first."""
        self._call(self._gate.set)

    def replace(self) -> None:
        """Serve new connections, and never again those that exist."""

        def replace() -> None:
            self._gate.clear()
            self._gate = asyncio.Event()
            self._gate.set()

        self._call(replace)

    def refuse(self) -> None:
        """Reset all connections and new ones, until `accept`."""

        def refuse() -> None:
            self.is_refusing = True
            for writer in self._writers:
                writer.transport.abort()

        self._call(refuse)

    def accept(self) -> None:
        """Serve new connections again."""
        self._call(lambda: setattr(self, "is_refusing", False))

    def lose_commit(self, statement: bytes, *, delivered: bool) -> None:
        """Reset the connection of the next transaction with `statement` at its COMMIT.

        If it is delivered, PostgreSQL commits, and only the response is lost.
        """
        self._losing = statement, delivered

    def _call(self, function) -> None:
        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(60)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.is_refusing:
            writer.transport.abort()
            return
        gate = self._gate
        with suppress(OSError, asyncio.CancelledError):
            await gate.wait()
            server_reader, server_writer = await asyncio.open_unix_connection(self.socket_path)
            self._writers |= {writer, server_writer}
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._forward_requests(reader, writer, server_writer, gate))
                    tasks.create_task(_forward(server_reader, writer, gate))
            finally:
                self._writers -= {writer, server_writer}
                writer.transport.abort()
                server_writer.transport.abort()

    async def _forward_requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_writer: asyncio.StreamWriter,
        gate: asyncio.Event,
    ) -> None:
        """Forward to the server, and reset the client's connection at the COMMIT to be lost."""
        has_statement = False
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await gate.wait()
                statement, delivered = self._losing or (b"", False)
                has_statement |= bool(statement) and statement in data
                if has_statement and b"COMMIT" in data:
                    self._losing = None
                    self.lost_commits += 1
                    writer.transport.abort()
                    if delivered:
                        server_writer.write(data)
                    break
                server_writer.write(data)
                await server_writer.drain()
        await gate.wait()  # the end of a connection is not forwarded either
        server_writer.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            await gate.wait()
            writer.write(data)
            await writer.drain()
    await gate.wait()  # the end of a connection is not forwarded either
    writer.close()


@contextmanager
def database_proxy(host: str = "127.0.0.1") -> Iterator[DatabaseProxy]:
    """Run a proxy to the database of the tests, on a random port of an address."""
    proxy = DatabaseProxy(f"{connection.settings_dict['HOST']}/.s.PGSQL.5432")
    thread = threading.Thread(target=proxy._run, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(proxy._serve, host, 0)

    server = asyncio.run_coroutine_threadsafe(start(), proxy._loop).result(60)
    proxy.port = server.sockets[0].getsockname()[1]

    async def close() -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(close(), proxy._loop).result(60)
        proxy._loop.call_soon_threadsafe(proxy._loop.stop)
        thread.join()
        proxy._loop.close()


def databases_through(instance: Instance, proxy: DatabaseProxy, address: str = "127.0.0.1") -> str:
    """Return `PULP_DATABASES` of the instance with the proxy in place of the server."""
    host = connection.settings_dict["HOST"]
    databases = instance.environ["PULP_DATABASES"]
    assert f'"HOST": "{host}"' in databases
    return databases.replace(f'"HOST": "{host}"', f'"HOST": "{address}", "PORT": {proxy.port}')
