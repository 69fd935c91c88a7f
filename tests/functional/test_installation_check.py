"""`pulpcore-manager content-star-check`: an installation in order, and one test for each fault."""

import base64
import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings
from django.utils import timezone

from pulpcore.content_star.app import installation
from pulpcore.content_star.app.check_line import Line
from tests.support.bridged import installed
from tests.support.instance import Instance
from tests.support.orm import Site
from tests.support.pgbouncer import pgbouncer
from tests.support.server import free_port
from tests.support.small_disk import small_disk
from tests.support.stores import Store, azure, s3

pytestmark = pytest.mark.slow

PLUGINS = Path(__file__).parents[2] / "docs" / "plugins.md"


def only(lines: Any, level: str) -> Line:
    """Return the only line of a level."""
    (line,) = [line for line in lines if line.level == level]
    return line


def run(instance: Instance, *arguments: str, **environ: str) -> tuple[int, dict[str, Any]]:
    command = ["pulpcore-manager", "content-star-check", "--json", *arguments]
    completed = instance.run(command, check=False, **environ)
    return completed.returncode, json.loads(completed.stdout)


def run_in_process(*arguments: str) -> tuple[int, dict[str, Any]]:
    """As `run`, with the settings of the tests."""
    printed = io.StringIO()
    try:
        call_command("content-star-check", "--json", *arguments, stdout=printed)
        code = 0
    except SystemExit as end:
        code = end.code
    return code, json.loads(printed.getvalue())


def test_check_of_an_installation_in_order_exits_0(instance: Instance) -> None:
    code, found = run(instance, "--workers", "1")
    assert (code, found["fault"]) == (0, 0), found
    checks = {line["check"] for line in found["lines"]}
    assert checks == {
        *(
            "system",
            "pulpcore",
            "plugins",
            "migrations",
            "triggers",
            "notifications",
            "connections",
        ),
        *("clock", "storage", "settings", "temporary files"),
    }


def test_check_of_a_refused_plugin_exits_1(instance: Instance, tmp_path: Path) -> None:
    legacy = installed(tmp_path, PULP_CONTENT_STAR_LEGACY_PLUGINS="refuse")
    code, found = run(instance, "--workers", "1", **legacy)
    assert code == 1
    faults = [line for line in found["lines"] if line["level"] == "fault"]
    texts = [line["text"] for line in faults if line["check"] == "plugins"]
    (text,) = [text for text in texts if text.startswith("bridged ")]
    assert "is refused" in text
    assert "set CONTENT_STAR_LEGACY_PLUGINS to bridge or proxy" in text


def test_check_of_a_plugin_whose_routes_are_not_served(instance: Instance, tmp_path: Path) -> None:
    code, found = run(instance, "--workers", "1", **installed(tmp_path))
    assert code == 1
    (text,) = [line["text"] for line in found["lines"] if line["level"] == "fault"]
    assert text.startswith("bridged ")
    assert text.endswith("; routes at / overlap paths of Pulp: update the plugin")


def test_check_of_a_pulpcore_that_is_not_supported(instance: Instance, tmp_path: Path) -> None:
    """The metadata of another version comes first on the path of the interpreter."""
    installed_one = metadata.distribution("pulpcore")
    of_another = tmp_path / "pulpcore-3.99.0.dist-info"
    of_another.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        text = installed_one.read_text(name)
        assert text
        text = text.replace(f"\nVersion: {installed_one.version}\n", "\nVersion: 3.99.0\n")
        (of_another / name).write_text(text)
    code, found = run(instance, "--workers", "1", PYTHONPATH=str(tmp_path))
    assert code == 1
    (fault,) = [line for line in found["lines"] if line["level"] == "fault"]
    assert fault["check"] == "pulpcore"
    assert "3.99.0 is not supported: install pulpcore" in fault["text"]


def test_check_of_a_missing_migration(instance: Instance) -> None:
    with transaction.atomic():
        MigrationRecorder(connection).migration_qs.filter(app="content_star").delete()
        line = only(installation.migrations(), "fault")
        transaction.set_rollback(True)
    assert "content_star 0001" in line.text
    assert "run pulpcore-manager migrate" in line.text


def test_check_of_a_disabled_trigger(instance: Instance) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'core_contentguard'::regclass"
            " AND tgname LIKE 'content_star%'"
        )
        cursor.execute(f"ALTER TABLE core_contentguard DISABLE TRIGGER {cursor.fetchone()[0]}")
        line = only(installation.installed_triggers(), "fault")
        transaction.set_rollback(True)
    assert "run pulpcore-manager migrate" in line.text
    assert only(installation.installed_triggers(), "ok")


def test_check_of_a_pooler_in_transaction_mode(instance: Instance, tmp_path: Path) -> None:
    with pgbouncer(instance, tmp_path) as pooler:
        code, found = run(instance, "--workers", "1", **pooler.environ)
    assert code == 1
    faults = [line for line in found["lines"] if line["level"] == "fault"]
    assert [line["check"] for line in faults] == ["notifications"]
    assert "behind a pooler in transaction mode" in faults[0]["text"]


def test_check_of_connections(instance: Instance) -> None:
    with override_settings(CONTENT_STAR_UPLOAD_THREADS=1):
        assert only(installation.connections(1), "ok")
        fault = only(installation.connections(1000), "fault")
    assert " hashing of API passwords + " in fault.text
    match = re.search(r"1000 x \(.*\) = (\d+) at most, (\d+) without uploads", fault.text)
    assert match
    assert int(match[1]) - int(match[2]) == 1000
    assert re.search(r"raise max_connections to \d+, or start fewer workers", fault.text)
    with override_settings(CONTENT_STAR_UPLOAD_THREADS=1000):
        assert "for that many uploads at once" in only(installation.connections(1), "note").text


def test_check_of_connections_for_a_number_of_workers(instance: Instance) -> None:
    """Three times the workers are three times the connections, and too many are a fault."""

    def needed(workers: int) -> tuple[int, str, int]:
        code, found = run_in_process("--workers", str(workers))
        (line,) = [line for line in found["lines"] if line["check"] == "connections"]
        match = re.match(rf"{workers} x \(.*\) = (\d+) at most", line["text"])
        assert match, line
        return code, line["level"], int(match[1])

    _, _, one = needed(1)
    code, level, many = needed(300)
    assert (code, level, many) == (1, "fault", 300 * one)
    with pytest.raises(CommandError, match="--workers must be at least 1"):
        call_command("content-star-check", "--workers", "0")


def test_check_of_a_database_that_is_away(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "HOST", "/nonexistent")
    connection.close()
    try:
        faults = {line.check: line for line in installation.check(1) if line.level == "fault"}
    finally:
        connection.close()
    assert set(faults) >= {"migrations", "triggers", "notifications", "connections", "clock"}
    assert "check DATABASES" in faults["clock"].text


def test_check_of_a_database_that_does_not_answer(instance: Instance, silent: str) -> None:
    """The command ends, and has a line for each check."""
    databases = json.loads(instance.environ["PULP_DATABASES"].removeprefix("@json "))
    url = urlsplit(silent)
    databases["default"] |= {"HOST": url.hostname, "PORT": url.port}
    code, found = run(instance, PULP_DATABASES=f"@json {json.dumps(databases)}")
    assert code == 1
    faults = {line["check"]: line["text"] for line in found["lines"] if line["level"] == "fault"}
    assert set(faults) >= {"migrations", "triggers", "notifications", "connections", "clock"}
    assert "timeout" in faults["clock"]


def test_check_of_an_error_of_django(instance: Instance, tmp_path: Path) -> None:
    """A folder that is missing is in the report, and does not keep the command from running."""
    missing = str(tmp_path / "missing")
    folders = {"PULP_WORKING_DIRECTORY": missing, "PULP_FILE_UPLOAD_TEMP_DIR": missing}
    code, found = run(instance, "--workers", "1", **folders)
    assert code == 1
    faults = {line["check"]: line["text"] for line in found["lines"] if line["level"] == "fault"}
    assert set(faults) == {"system", "temporary files"}
    assert "nonexistent directory" in faults["system"]
    assert "(files.E001)" in faults["system"]
    assert f"WORKING_DIRECTORY {missing} cannot be written" in faults["temporary files"]


def test_check_that_fails_is_a_fault_and_others_follow(instance: Instance) -> None:
    with override_settings(CONTENT_STAR_DATABASE_THREADS="x"):
        lines = list(installation.check(1))
    faults = [line for line in lines if line.level == "fault"]
    assert [line.check for line in faults] == ["connections", "settings"]
    assert "the check failed: TypeError" in faults[0].text
    assert lines[-1].check == "temporary files"


@contextlib.contextmanager
def another_clock(monkeypatch: pytest.MonkeyPatch, seconds: int) -> Iterator[None]:
    """Give the database another clock, for the connections of this process.

    A function of the same name comes first on their search path.
    """
    function = f"""
        CREATE SCHEMA another_clock;
        CREATE FUNCTION another_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT pg_catalog.clock_timestamp() + interval '{seconds} seconds' $$
    """
    path = "-c search_path=another_clock,pg_catalog,public"
    with connection.cursor() as cursor:
        cursor.execute(function)
    try:
        with monkeypatch.context() as changed:
            changed.setitem(connection.settings_dict, "OPTIONS", {"options": path})
            connection.close()
            yield
    finally:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA another_clock CASCADE")


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_check_of_a_clock_that_differs(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """Behind that of the database, and ahead of it."""
    with another_clock(monkeypatch, seconds):
        code, found = run_in_process("--workers", "1")
    assert code == 1
    (fault,) = [line for line in found["lines"] if line["level"] == "fault"]
    assert fault["check"] == "clock"
    match = re.match(r"it differs from the database's by (\d+\.\d) s", fault["text"])
    assert match
    assert 3000 < float(match[1]) <= 3600
    assert "synchronize both with NTP" in fault["text"]


def test_check_of_a_clock_counts_no_time_of_the_query() -> None:
    assert installation.skew(100.5, before=100.0, after=101.0).level == "ok"
    assert installation.skew(99.1, before=100.0, after=101.0).level == "ok"
    assert installation.skew(102.1, before=100.0, after=101.0).level == "fault"


def test_check_of_an_artifact_that_is_gone(instance: Instance, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    site = Site("pulpcore.app.models.storage.FileSystem", {"location": str(folder)}, {"a": b"gone"})
    try:
        (path,) = [path for path in folder.rglob("*") if path.is_file()]
        assert f"domain {site.domain.name}: a file can be streamed" in str(
            [line.text for line in installation.storage()]
        )
        path.unlink()
        line = only(installation.storage(), "fault")
    finally:
        site.remove()
    assert site.domain.name in line.text
    assert "FileNotFoundError" in line.text


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_check_of_an_object_store(instance: Instance, store: Store) -> None:
    site = Site(store.storage_class, store.settings, {"a": b"object"})
    try:
        site.set(redirect_to_object_storage=True)
        texts = [line.text for line in installation.storage() if line.level == "ok"]
        assert any("its signed URL works" in text for text in texts)
    finally:
        site.remove()


@contextlib.contextmanager
def s3_with_keys() -> Iterator[Store]:
    """moto with authentication, which it does not do by default, and a user's key."""
    with s3() as store:
        known = {
            "region_name": "us-east-1",
            "aws_access_key_id": store.settings["access_key"],
            "aws_secret_access_key": store.settings["secret_key"],
        }
        iam = boto3.client("iam", endpoint_url=store.relay.url, **known)
        iam.create_user(UserName="pulp")
        statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName="pulp", PolicyName="pulp", PolicyDocument=policy)
        key = iam.create_access_key(UserName="pulp")["AccessKey"]
        httpx.post(f"{store.relay.url}/moto-api/reset-auth", content=b"0").raise_for_status()
        store.settings["access_key"] = key["AccessKeyId"]
        store.settings["secret_key"] = key["SecretAccessKey"]
        yield store


Start = Callable[[], AbstractContextManager[Store]]


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[Start], Store]]:
    """Return a function that starts a store once for the module."""
    with contextlib.ExitStack() as stack:
        yield cache(lambda start: stack.enter_context(start()))


OTHER_KEY = base64.b64encode(b"another key").decode()
FAULTS = {
    "s3 secret": (s3_with_keys, {"secret_key": "another-secret"}, "403"),
    "s3 key": (s3_with_keys, {"access_key": "another-key"}, "403"),
    "s3 bucket": (s3, {"bucket_name": "another"}, "NoSuchBucket"),
    "azure key": (azure, {"account_key": OTHER_KEY}, "AuthorizationFailure"),  # of Azurite
    "azure container": (azure, {"azure_container": "another"}, "ContainerNotFound"),
}


def line_of(site: Site) -> Line:
    """Return the line of a domain."""
    (line,) = [each for each in installation.storage() if site.domain.name in each.text]
    return line


def set_settings(site: Site, settings: dict[str, Any]) -> None:
    """Change storage settings as the REST API does, with the time by which storages are cached."""
    site.set(storage_settings=settings, pulp_last_updated=timezone.now())


@pytest.mark.parametrize("files", [{"a": b"object"}, {}], ids=["artifact", "empty"])
@pytest.mark.parametrize(("start", "change", "answer"), FAULTS.values(), ids=FAULTS)
def test_check_of_a_wrong_key_or_bucket(
    instance: Instance,
    started: Callable[[Start], Store],
    start: Start,
    change: dict[str, str],
    answer: str,
    files: dict[str, bytes],
) -> None:
    """With an artifact that cannot be read, and without any."""
    store = started(start)
    site = Site(store.storage_class, store.settings, files)
    try:
        # With authentication, moto accepts no signed URLs.
        site.set(redirect_to_object_storage=start is not s3_with_keys)
        assert line_of(site).level != "fault", line_of(site).text
        changed = {**store.settings, **change}
        if "account_key" in change:
            changed["connection_string"] = store.settings["connection_string"].replace(
                store.settings["account_key"], OTHER_KEY
            )
        set_settings(site, changed)
        line = line_of(site)
    finally:
        set_settings(site, store.settings)
        site.remove()
    assert line.level == "fault", line.text
    assert answer in line.text
    assert "check its settings" in line.text
    assert "\n" not in line.text
    for secret in (*store.secrets, *change.values()):
        assert secret == "another" or secret not in line.text


@pytest.mark.parametrize(
    ("code", "level", "text"),
    [
        ("SignatureDoesNotMatch", "fault", "the store answers SignatureDoesNotMatch: check its"),
        ("AccessDenied", "note", "the store hides which objects it has"),
    ],
)
def test_check_of_errors_of_an_empty_store(
    instance: Instance, started: Callable[[Start], Store], code: str, level: str, text: str
) -> None:
    """S3's error bodies; a key that may not list the bucket gets 403 for an unknown object."""
    body = f"<Error><Code>{code}</Code><Message>secret-of-the-message</Message></Error>".encode()
    head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    store = started(s3)
    site = Site(store.storage_class, store.settings, {})
    try:
        assert line_of(site).level == "ok", line_of(site).text
        store.relay.reply = head.encode() + body
        line = line_of(site)
    finally:
        store.relay.reply = None
        site.remove()
    assert (line.level, text in line.text) == (level, True), line.text
    assert "secret-of-the-message" not in line.text


def test_check_of_a_store_that_is_not_there(
    instance: Instance, started: Callable[[Start], Store]
) -> None:
    store = started(s3)
    url = f"http://127.0.0.1:{free_port()}"
    site = Site(store.storage_class, {**store.settings, "endpoint_url": url}, {})
    try:
        line = line_of(site)
    finally:
        site.remove()
    assert (line.level, "Connection refused" in line.text) == ("fault", True)


@pytest.mark.parametrize(
    ("name", "value", "level", "text"),
    [
        ("CONTENT_APP_TTL", 1, "fault", "a late heartbeat removes a process"),
        ("CONTENT_STAR_LEGACY_PLUGINS", "proxy", "fault", "set CONTENT_STAR_LEGACY_URL"),
        ("CACHE_ENABLED", True, "note", "content has a cache of its own"),
        ("CONTENT_PATH_PREFIX", "/content/", "note", "CONTENT_PATH_PREFIX is /content/"),
        ("DOMAIN_ENABLED", True, "note", "below the name of its domain"),
        ("CONTENT_STAR_DATABASE_THREADS", 0, "fault", "set it to a whole number from 1"),
        ("CONTENT_STAR_DATABASE_TIMEOUT", 0, "fault", "set it to a number of more than 0"),
        ("CONTENT_STAR_SENDFILE", True, "fault", "set it to a string"),
        ("CONTENT_STAR_STALE_IF_ERROR", "soon", "fault", "is 'soon'"),
        ("CONTENT_STAR_SWITCH_INTERVAL", float("nan"), "fault", "is nan"),
        ("CONTENT_STAR_API_NICE", None, "fault", "set it to a whole number from 0"),
        ("CONTENT_STAR_API_NICE", 2.5, "fault", "set it to a whole number from 0"),
        ("CONTENT_STAR_CORS", "yes", "fault", "set it to True or False"),
        (
            "AUTHENTICATION_BACKENDS",
            ["pulpcore.app.authentication.PulpNoCreateRemoteUserBackend"],
            "note",
            "or clients choose their user",
        ),
    ],
)
def test_check_of_a_setting(name: str, value: object, level: str, text: str) -> None:
    with override_settings(CONTENT_ORIGIN="http://pulp.example.org", **{name: value}):
        assert text in only(installation.changed_settings(), level).text


def test_check_of_a_missing_content_origin() -> None:
    with override_settings(CONTENT_ORIGIN=None):
        assert "CONTENT_ORIGIN is not set" in only(installation.changed_settings(), "note").text


def test_check_of_temporary_space(instance: Instance, tmp_path: Path) -> None:
    with override_settings(WORKING_DIRECTORY=str(tmp_path / "nope")):
        assert "cannot be written" in only(installation.temporary_files(), "fault").text
    with small_disk(16 << 20) as disk:
        code, found = run(instance, "--workers", "1", PULP_WORKING_DIRECTORY=str(disk.path))
        disk.fill()
        with override_settings(WORKING_DIRECTORY=str(disk.path)):
            assert "No space left" in only(installation.temporary_files(), "fault").text
    assert code == 1
    (fault,) = [line for line in found["lines"] if line["level"] == "fault"]
    assert fault["check"] == "temporary files"
    assert f"0.0 GiB are free in WORKING_DIRECTORY {disk.path}" in fault["text"]
    assert "make room" in fault["text"]


def test_check_of_temporary_space_needs_1_gib() -> None:
    assert installation.space("/x", (1 << 30) - 1).level == "fault"
    assert installation.space("/x", 1 << 30).level == "ok"


def test_tested_plugins_are_those_of_the_documentation() -> None:
    rows = re.findall(r"^\| (pulp-\w+) \| ([\d.]+) \|", PLUGINS.read_text(), re.MULTILINE)
    assert dict(rows) == installation.TESTED_PLUGINS
