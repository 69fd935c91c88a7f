"""Start one Pulp, and run upstream's functional tests against it.

    python -m tests.upstream_functional [core|domains|s3] [arguments of pytest]

Passwords are hashed with MD5: upstream's tests log in anew with each request, and PBKDF2 would take
most of their time.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.instance import Instance, in_venv, stop, wait_until
from tests.orm import copy_template
from tests.server import free_port
from tests.stores import Store, s3

PACKAGES = ("pulpcore", "pulp_file", "pulp_certguard")
INSTALLED = Path(sysconfig.get_path("purelib"))
FOLDERS = [f"{package}/tests/functional" for package in PACKAGES]
KINDS = ("core", "domains", "s3")
ROOT = Path(__file__).parents[2]

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
    """Run the tests in the configuration that the first argument names; return pytest's code."""
    arguments = sys.argv[1:]
    kind = arguments.pop(0) if arguments and arguments[0] in KINDS else "core"
    os.environ[GUARD_VARIABLE] = "a secret"
    with ExitStack() as stack:
        settings = {**SETTINGS, "REDIS_URL": stack.enter_context(_redis())}
        if kind != "core":
            settings["DOMAIN_ENABLED"] = True
        if kind == "s3":
            settings |= _storage(stack.enter_context(s3()))
        instance = stack.enter_context(_instance(settings))
        return _test(instance, kind, arguments)


@contextmanager
def _instance(settings: dict[str, Any]) -> Iterator[Instance]:
    """Make a Pulp, and start it once more with the settings."""
    instance = Instance.temporary()
    try:
        if not copy_template(instance.home):
            instance.start()
            assert instance.stop() == 0, instance.said()
        with instance.state.settings.open("a") as file:
            file.writelines(f"{name} = {value!r}\n" for name, value in settings.items())
        instance.state.done.joinpath("admin").unlink()  # the password is hashed again
        yield instance.start()
    finally:
        instance.remove()


def _test(instance: Instance, kind: str, arguments: list[str]) -> int:
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
    return subprocess.run(
        [*command, *plugins, "-ra", "--tb=short", *options, *selected],
        env=environ,
        cwd=instance.state.working_directory,
    ).returncode


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


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
