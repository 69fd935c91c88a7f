"""nginx mirrors requests to our content app, with the configuration of docs/migrating.md."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from tests.functional.test_behind_proxy import GROUP, NGINX, USER, _listens, replace_all
from tests.support.instance import Instance, stop, wait_until
from tests.support.orm import Orm
from tests.support.server import Server, free_port, serving, serving_theirs

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx here")

DOCUMENT = Path(__file__).parents[2] / "docs" / "migrating.md"
CONTENT = "/pulp/content/"
FILES = {"a.txt": b"0123456789", "dir/b": b"b", "large": b"x" * 3_000_000}


@dataclass
class Shadow:
    """nginx in front of upstream's app, which mirrors to ours."""

    url: str
    folder: Path
    old: Server
    new: Server

    @property
    def log(self) -> Path:
        return self.folder / "pulp.log"

    def lines(self) -> list[str]:
        return (self.folder / "shadow.log").read_text().splitlines()

    def mirrored(self) -> dict[str, str]:
        """The statuses of the new app by request id."""
        return {line.split()[0]: line.split()[1] for line in self.lines()}

    def served(self) -> dict[str, str]:
        """The statuses of the old app by request id."""
        matches = re.finditer(r'" (\d{3}) .* id=(\w+)$', self.log.read_text(), re.MULTILINE)
        return {match[2]: match[1] for match in matches}


def configuration(folder: Path, port: int, old: str, new: str) -> str:
    section = DOCUMENT.read_text().split("\n## Shadow traffic\n")[1]
    (sample,) = re.findall(r"(?m)^ {4}log_format(?:.*\n|\n)+?(?=^\S)", section)
    values = {
        "listen 8080": f"listen 127.0.0.1:{port}",
        "127.0.0.1:24816": old.removeprefix("http://"),
        "127.0.0.1:24818": new.removeprefix("http://"),
        "/var/log/nginx/": f"{folder}/",
        "10% 1;": "100% 1;",
        "*   0;": "",
    }
    return f"""
        daemon off;
        worker_processes 1;
        {f"user {USER.pw_name} {GROUP.gr_name};" if os.geteuid() == 0 else ""}
        pid {folder}/pid;
        error_log {folder}/error.log;
        events {{ }}
        http {{
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            {replace_all(dedent(sample), values)}
        }}
    """


@pytest.fixture
def shadow(instance: Instance) -> Iterator[Shadow]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o777)
        old = stack.enter_context(serving_theirs(instance))
        new = stack.enter_context(serving(instance))
        port = free_port()
        file = folder / "nginx.conf"
        file.write_text(configuration(folder, port, old.url, new.url))
        process = subprocess.Popen([str(NGINX), "-c", file, "-e", folder / "error.log"])
        stack.callback(stop, process)
        wait_until(lambda: _listens(process, folder / "error.log", port), 60)
        yield Shadow(f"http://127.0.0.1:{port}", folder, old, new)


def test_shadow_traffic_is_mirrored_and_never_answers(
    shadow: Shadow, instance: Instance, orm: Orm
) -> None:
    base = orm.distribution(publication=orm.publication(FILES))
    requests = [
        ("GET", "a.txt", {}),
        ("HEAD", "a.txt", {}),
        ("GET", "a.txt", {"Range": "bytes=2-4"}),
        ("GET", "large", {}),
        ("GET", "dir/", {}),
        ("GET", "dir", {}),
        ("GET", "nope", {}),
    ]
    with httpx.Client(base_url=shadow.url, trust_env=False, timeout=300) as client:

        def ask() -> None:
            for method, path, headers in requests:
                target = f"{CONTENT}{base}/{path}"
                response = client.request(method, target, headers=headers)
                direct = httpx.request(
                    method, shadow.old.url + target, headers=headers, trust_env=False, timeout=300
                )
                # upstream's own, by its entity tag of the file's mtime
                assert response.headers.get("etag") == direct.headers.get("etag")
                assert (response.status_code, response.content) == (
                    direct.status_code,
                    direct.content,
                )

        ask()
        wait_until(lambda: len(shadow.lines()) == len(requests), explain=shadow.new.said)
        assert shadow.mirrored() == shadow.served()
        assert set(shadow.mirrored().values()) == {"200", "206", "301", "404"}

        # One that changes something is passed on to the old app alone.
        assert client.post(f"{CONTENT}{base}/a.txt").status_code == 405

        stop(shadow.new.process)
        ask()
        wait_until(lambda: len(shadow.lines()) == 2 * len(requests))
        assert set(shadow.mirrored().values()) >= {"502"}

    with serving(instance) as new:
        completed = instance.star(
            *("compare", shadow.old.url, new.url, "--access-log", str(shadow.log), "--rate", "0"),
            check=False,
        )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert f"{2 * len(requests)} requests to each" in completed.stdout
    assert "range 2" in completed.stdout
