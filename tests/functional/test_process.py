"""Process life cycle: start, status and heartbeats, shutdown."""

import hashlib
import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.support.instance import wait_until
from tests.support.server import Server, serving

pytestmark = pytest.mark.slow

BIG = os.urandom(1 << 20) * 64


def rows(pid: int, app_type: str | None = None) -> list:
    from pulpcore.app.models import AppStatus

    found = AppStatus.objects.filter(name__startswith=f"{pid}@")
    return list(found.filter(app_type=app_type) if app_type else found)


def test_status_lists_the_process_as_api_and_as_content_app(instance):
    (pid,) = instance.servers()
    status = httpx.get(f"{instance.url}/pulp/api/v3/status/").json()
    for kind in ("online_api_apps", "online_content_apps"):
        names = [app["name"] for app in status[kind]]
        assert len([name for name in names if name.startswith(f"{pid}@")]) == 1, kind
    assert "content_star" in {version["component"] for version in status["versions"]}


@pytest.mark.parametrize(
    ("path", "expected_text"),
    [
        ("/pulp/api/v3/", "repositories/file/file"),
        ("/pulp/api/v3/livez/", ""),
        ("/pulp/api/v3/docs/", "redoc"),
        ("/pulp/api/v3/docs/api.json", "openapi"),
        ("/auth/login/", "password"),
        ("/assets/rest_framework/css/bootstrap.min.css", "Bootstrap"),
    ],
)
def test_api_docs_login_and_assets_are_served(instance, path, expected_text):
    response = httpx.get(instance.url + path)
    assert response.status_code == 200
    assert expected_text in response.text
    assert response.headers["Correlation-ID"]


def test_domain_in_the_path_selects_its_content(domains, orm):
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    root = domains.content_url
    assert httpx.get(f"{root}default/{base}/a.txt").content == b"a"
    assert f'"{base}/"' in httpx.get(f"{root}default/").text
    assert httpx.get(f"{root}default").status_code == 301
    for path in ("nope/", "nope", f"nope/{base}/a.txt", "%3Cb%3E/", "é/"):
        response = httpx.get(root + path)
        assert response.status_code == 404, path
        assert "no domain" in response.text
    assert "names no domain" in httpx.get(root).text


def test_tasks_require_no_content_star_in_workers(pulp, orm):
    from pulpcore.app.apps import MODULE_PLUGIN_VERSIONS
    from pulpcore.app.models import Task

    assert set(MODULE_PLUGIN_VERSIONS["pulpcore"]) == {"core"}
    pulp.distribute()
    pulp.cleanup()
    versions = Task.objects.filter(name__startswith="pulpcore.app").latest("pulp_created").versions
    assert set(versions) == {"core"}


@pytest.fixture(scope="module")
def beating(instance) -> Iterator[Server]:
    """A server with a heartbeat each second."""
    with serving(instance, PULP_CONTENT_APP_TTL="4", PULP_API_APP_TTL="4") as server:
        yield server


def test_heartbeat_row_that_was_deleted_is_inserted_again(instance, orm, beating):
    pid = beating.process.pid
    assert len(rows(pid)) == 2
    for row in rows(pid):
        row.delete()
    wait_until(lambda: len(rows(pid)) == 2, explain=beating.said)
    wait_until(lambda: "inserting it again" in beating.said(), explain=beating.said)
    assert pulp_can_run_a_task(beating, instance), "with the new row"


def pulp_can_run_a_task(server, instance) -> bool:
    pulp = instance.pulp()
    pulp.http.base_url = server.url
    pulp.distribute()
    pulp.cleanup()
    return True


def test_heartbeat_is_updated(instance, orm, beating):
    pid = beating.process.pid
    first = {row.app_type: row.last_heartbeat for row in rows(pid)}
    assert set(first) == {"api", "content"}
    wait_until(
        lambda: all(row.last_heartbeat > first[row.app_type] for row in rows(pid)),
        explain=beating.said,
    )


def test_heartbeat_resumes_when_the_database_is_available_again(instance, orm, tmp_path):
    """The server reaches PostgreSQL's socket through a symbolic link, which is removed."""
    from django.db import connection

    link = tmp_path / "link"
    link.symlink_to(instance.address.socket_dir)
    options = {
        "PULP_DATABASES": instance.environ["PULP_DATABASES"].replace(
            instance.address.socket_dir, str(link)
        ),
        "PULP_CONTENT_APP_TTL": "4",
        "PULP_API_APP_TTL": "4",
        "PGAPPNAME": "heartbeat-test",
    }
    with serving(instance, **options) as server:
        pid = server.process.pid
        link.unlink()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                " WHERE application_name = 'heartbeat-test'"
            )
            assert cursor.rowcount > 0
        wait_until(lambda: "cannot write its row" in server.said(), explain=server.said)
        for row in rows(pid):
            row.delete()  # as workers delete overdue rows
        link.symlink_to(instance.address.socket_dir)
        wait_until(lambda: len(rows(pid)) == 2, explain=server.said)
    assert rows(pid) == []


def test_shutdown_removes_the_heartbeat_rows(instance, orm):
    with serving(instance) as server:
        pid = server.process.pid
        assert len(rows(pid)) == 2
        server.process.terminate()
        assert server.process.wait(300) in (0, -signal.SIGTERM)
        assert rows(pid) == []


def test_content_application_registers_as_content_app_only(instance, orm):
    with serving(instance, app="pulpcore.routing:content_application") as server:
        assert [row.app_type for row in rows(server.process.pid)] == ["content"]
        assert httpx.get(server.content_url).status_code == 200
        response = httpx.get(f"{server.url}/pulp/api/v3/status/")
        assert response.status_code == 404
        assert "/pulp/content/" in response.text


def test_heartbeat_rows_of_every_worker_process(instance, orm):
    from pulpcore.app.models import AppStatus

    others = set(AppStatus.objects.values_list("pk", flat=True))

    def new() -> list[str]:
        return sorted(AppStatus.objects.exclude(pk__in=others).values_list("app_type", flat=True))

    with serving(instance, "--workers", "2") as server:
        wait_until(lambda: new() == ["api", "api", "content", "content"], explain=server.said)
        assert httpx.get(server.content_url).status_code == 200
    wait_until(lambda: new() == [])


@pytest.mark.parametrize("app", ["application", "content_application"])
def test_shutdown_waits_for_a_running_download(instance, orm, app):
    publication = orm.publication({"big.bin": BIG})
    base = orm.distribution(publication=publication)
    options = ("--timeout-graceful-shutdown", "60")
    with serving(instance, *options, app=f"pulpcore.routing:{app}") as server:
        with httpx.stream("GET", f"{server.content_url}{base}/big.bin") as response:
            chunks = response.iter_raw(65536)
            digest = hashlib.sha256(next(chunks))
            server.process.terminate()
            wait_until(lambda: "Waiting for connections to close" in server.said())
            for chunk in chunks:
                digest.update(chunk)
        assert digest.digest() == hashlib.sha256(BIG).digest()
        assert server.process.wait(300) in (0, -signal.SIGTERM)
        assert rows(server.process.pid) == []


def test_client_disconnect_closes_the_artifact_files(instance, orm, beating):
    base = orm.distribution(publication=orm.publication({"big.bin": BIG}))
    for _ in range(5):
        with httpx.stream("GET", f"{beating.content_url}{base}/big.bin") as response:
            next(response.iter_raw(65536))
    pid = beating.process.pid
    wait_until(lambda: not open_artifacts(pid, instance), explain=beating.said)


def open_artifacts(pid: int, instance) -> list[str]:
    links = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [link for link in links if link.startswith(str(instance.state.media))]


def test_process_stays_in_the_directory_where_it_was_started(instance, beating):
    expected = instance.state.working_directory
    assert os.readlink(f"/proc/{beating.process.pid}/cwd") == str(expected)
