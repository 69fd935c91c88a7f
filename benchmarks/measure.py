"""CPU time of a server and all its processes, but not of PostgreSQL and Redis."""

import psutil

from tests.support.server import Server


def processes(server: Server) -> list[psutil.Process]:
    """Return a server's first process and all those that it has started."""
    main = psutil.Process(server.process.pid)
    return [main, *main.children(recursive=True)]


def cpu_seconds(server: Server) -> float:
    """Return the seconds of CPU, in user mode and in the kernel, that a server has taken so far."""
    times = [process.cpu_times() for process in processes(server)]
    return float(sum(each.user + each.system for each in times))
