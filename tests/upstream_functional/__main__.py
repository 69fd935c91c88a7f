"""Start one Pulp, and run upstream's functional tests against it.

    python -m tests.upstream_functional [core|domains|s3] [arguments of pytest]

Passwords are hashed with MD5: upstream's tests log in with each request, and PBKDF2 would take
most of their time.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.instance import Instance, in_venv, stop, wait_until
from tests.support.server import free_port
from tests.support.stores import Store, s3

PACKAGES = ("pulpcore", "pulp_file", "pulp_certguard")
INSTALLED = Path(sysconfig.get_path("purelib"))
FOLDERS = [f"{package}/tests/functional" for package in PACKAGES]
KINDS = ("core", "domains", "s3")
ROOT = Path(__file__).parents[2]

# Seconds for a test. From 600 on, upstream runs those, too, that take as long.
TIMEOUT = ("--timeout", "900")

# Processes of pytest at a time. Some tests give a command 20 seconds: not more than processors.
CLIENTS = min(4, os.cpu_count() or 1)

# Workers beside the one of `pulp-star up`: some of upstream's tests need two.
WORKERS = 2

NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)

# The secret that upstream's test of the environment variable guard sends.
GUARD_VARIABLE = "ENVVAR_HEADER_GUARD_TEST_SECRET"

# As upstream's CI has them, where its tests depend on them.
SETTINGS: dict[str, Any] = {
    "ALLOWED_EXPORT_PATHS": ["/tmp"],
    "ALLOWED_IMPORT_PATHS": ["/tmp"],
    "CACHE_ENABLED": True,
    "DISTRIBUTED_PUBLICATION_RETENTION_PERIOD": 5,
    "ENVVAR_HEADER_CONTENT_GUARD_ALLOWED_VARS": [GUARD_VARIABLE],
    "ORPHAN_PROTECTION_TIME": 0,
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
    "TASK_DIAGNOSTICS": ["memory"],
}


def main() -> int:
    """Run the tests in the configuration that the first argument names; return pytest's code.

    Ctrl-C and SIGTERM stop all that it has started.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = sys.argv[1:]
    kind = arguments.pop(0) if arguments and arguments[0] in KINDS else "core"
    os.environ[GUARD_VARIABLE] = "a secret"
    with ExitStack() as stack:
        settings = {**SETTINGS, "REDIS_URL": stack.enter_context(_redis())}
        if kind != "core":
            settings["DOMAIN_ENABLED"] = True
        if kind == "s3":
            settings |= _storage(stack.enter_context(s3()))
        os.environ["REMOTE_FIXTURES_ORIGIN"] = stack.enter_context(_fixtures())
        instance = stack.enter_context(_instance(settings))
        return _test(instance, kind, arguments)


@contextmanager
def _instance(settings: dict[str, Any]) -> Iterator[Instance]:
    """Start a Pulp that has the settings from its first migration on.

    That copies some of them, such as the storage, into the default domain.
    """
    instance = Instance.temporary()
    try:
        instance.state.create()
        with instance.state.settings.open("a") as file:
            file.writelines(f"{name} = {value!r}\n" for name, value in settings.items())
        instance.start()
        instance.star("remove", "hello", "--yes")  # a test counts all repositories
        for _ in range(WORKERS):
            instance.spawn(["pulpcore-worker"])
        yield instance
    finally:
        instance.remove()


def _test(instance: Instance, kind: str, arguments: list[str]) -> int:
    """Run the tests as upstream's CI does: first those that may run side by side."""
    command = in_venv(["python", "-m", "pytest", "-c", os.devnull, "--rootdir", str(INSTALLED)])
    plugins = ["-p", "tests.upstream_functional.expected", "-p", "no:cacheprovider"]
    environ = {
        **instance.client_environ,
        **instance.environ,
        "API_PROTOCOL": "http",
        "API_HOST": instance.address.reachable_host,
        "API_PORT": str(instance.address.port),
        "ADMIN_PASSWORD": instance.password,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "UPSTREAM_KIND": kind,
    }
    # A test is named by its path below site-packages: pulp_file/tests/functional/api/test_acs.py
    names = [each for each in arguments if each.startswith("pulp") and "/" in each]
    options = [each for each in arguments if each not in names]
    selected = [str(INSTALLED / each) for each in names or FOLDERS]
    codes = [
        subprocess.run(
            [*command, *plugins, "-ra", "--tb=short", *TIMEOUT, *marked, *options, *selected],
            env=environ,
            cwd=instance.state.working_directory,
        ).returncode
        for marked in (["-m", "parallel", "-n", str(CLIENTS)], ["-m", "not parallel"])
    ]
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


def _storage(store: Store) -> dict[str, Any]:
    """Return the settings that keep artifacts in an object store."""
    static = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    default = {"BACKEND": store.storage_class, "OPTIONS": store.settings}
    return {"MEDIA_ROOT": "", "STORAGES": {"default": default, "staticfiles": static}}


@contextmanager
def _redis() -> Iterator[str]:
    """Run a Redis of its own, and return its URL: upstream's API caches in it."""
    program = shutil.which("redis-server")
    assert program, "Upstream's tests need redis-server: apt-get install redis-server"
    port = free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _answers(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(process)


@contextmanager
def _fixtures() -> Iterator[str]:
    """Serve what a test downloads from fixtures.pulpproject.org, and return the server's URL."""
    with TemporaryDirectory() as folder:
        names = ("1.iso", "2.iso", "3.iso")
        files = Path(folder, "file")
        files.mkdir()
        for name in names:
            files.joinpath(name).write_bytes(os.urandom(1024))
        lines = [_manifest_line(files / name) for name in names]
        files.joinpath("PULP_MANIFEST").write_text("".join(lines))
        port = free_port()
        command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=folder, **silent)
        try:
            wait_until(lambda: _answers(port))
            yield f"http://127.0.0.1:{port}/"
        finally:
            stop(process)


def _manifest_line(file: Path) -> str:
    data = file.read_bytes()
    return f"{file.name},{sha256(data).hexdigest()},{len(data)}\n"


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
