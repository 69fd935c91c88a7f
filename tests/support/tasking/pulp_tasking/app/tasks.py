"""Immediate tasks, which are coroutines."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async


async def write(text: str) -> dict[str, Any]:
    """Write a relative file, yield to other tasks, and return all files and the text."""
    Path("note").write_text(text)
    for _ in range(10):
        await asyncio.sleep(0)
        files = await sync_to_async(os.listdir)()
    read = await asyncio.to_thread(Path("note").read_text)
    return {"files": files, "text": read, "directory": str(Path.cwd())}


async def block(begun: str, end: str) -> str:
    """Make the file `begun` and block until there is a file `end`."""
    Path(begun).touch()
    while not Path(end).exists():
        time.sleep(0.01)
    return "ended"


async def wait(begun: str, end: str) -> str:
    """As `block`, but yield to other tasks."""
    Path(begun).touch()
    while not Path(end).exists():
        await asyncio.sleep(0.01)
    return "ended"


async def meet(others: str, member: str, count: str) -> str:
    """Make a file `member` in the folder `others` and wait until there are `count`."""
    Path(others, member).touch()
    while len(os.listdir(others)) < int(count):
        await asyncio.sleep(0.01)
    return "met"


async def move_away() -> str:
    """Change to a directory, remove it, and fail, as a faulty task might."""
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
    raise RuntimeError("lost")
