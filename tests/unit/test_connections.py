"""Deadlines of connections, without a server."""

import asyncio

from pulpcore.content_star.server import connections


class Connection:
    """A connection that notes its timeout, or fails in it."""

    is_lost = is_unread = False

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.aborted = asyncio.Event()
        self.expired = asyncio.Event()

    def expire(self) -> None:
        if self.fails:
            raise RuntimeError("of a transport")
        self.expired.set()

    def abort(self) -> None:
        self.aborted.set()


def test_error_in_the_timeout_of_one_connection_aborts_only_that(monkeypatch, caplog):
    monkeypatch.setattr(connections, "INTERVAL", 0.01)

    async def expire_both() -> None:
        watched = connections.Connections(asyncio.get_running_loop())
        failing, other = Connection(fails=True), Connection(fails=False)
        for each in (failing, other):
            watched.add(each)
            watched.set_deadline(each, 0)
        await asyncio.wait_for(asyncio.gather(failing.aborted.wait(), other.expired.wait()), 60)
        assert watched.all == {other}
        watched.remove(other)

    asyncio.run(expire_both())
    assert "of a transport" in caplog.text
