"""A network namespace whose packets can be dropped."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass
class Namespace:
    """A network namespace, connected to ours by a pair of interfaces."""

    name: str
    ours: str
    """Our address on the link."""
    address: str
    """The address in the namespace."""

    @property
    def prefix(self) -> list[str]:
        """The beginning of a command line that runs in the namespace."""
        return ["ip", "netns", "exec", self.name]

    def drop(self, port: int) -> None:
        """Drop all packets to and from a port of ours, silently."""
        for chain, side in (("OUTPUT", "--dport"), ("INPUT", "--sport")):
            rule = ["-I", chain, "-p", "tcp", side, str(port), "-j", "DROP"]
            _run(*self.prefix, "iptables", *rule)

    def restore(self) -> None:
        """Drop no packets."""
        _run(*self.prefix, "iptables", "-F")


@contextmanager
def network_namespace() -> Iterator[Namespace]:
    """Create a namespace; skip the test where that needs a program or a privilege."""
    for program in ("ip", "iptables"):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}")
    number = random.randrange(256)
    name = f"star-{number}-{random.randrange(10_000)}"[:13]
    space = Namespace(name, f"10.213.{number}.1", f"10.213.{number}.2")
    try:
        _run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot create a network namespace: {error.stderr.decode()}")
    try:
        link = ["type", "veth", "peer", "name", "peer", "netns", name]
        _run("ip", "link", "add", name, *link)
        _run("ip", "address", "add", f"{space.ours}/30", "dev", name)
        _run("ip", "link", "set", name, "up")
        _run(*space.prefix, "ip", "address", "add", f"{space.address}/30", "dev", "peer")
        _run(*space.prefix, "ip", "link", "set", "peer", "up")
        _run(*space.prefix, "ip", "link", "set", "lo", "up")
        space.restore()  # fails where iptables does
    except subprocess.CalledProcessError as error:
        _run("ip", "netns", "delete", name)
        pytest.skip(f"cannot set up a network namespace: {error.stderr.decode()}")
    try:
        yield space
    finally:
        _run("ip", "netns", "delete", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
