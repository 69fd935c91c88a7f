"""Defaults of libpq's parameters, and the operator's own."""

import pytest
from django.db import connections

from pulpcore.content_star.database.connection import PARAMETERS, set_connection_defaults


@pytest.fixture
def options(monkeypatch) -> dict[str, object]:
    """The `OPTIONS` of the database, empty for the test."""
    found: dict[str, object] = {}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", found)
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    return found


def test_connection_defaults_are_added_to_the_database_options(options):
    set_connection_defaults()
    assert options == PARAMETERS
    assert {"connect_timeout", "tcp_user_timeout", "keepalives_idle"} <= set(options)


def test_connection_defaults_reach_connections_of_django(options):
    set_connection_defaults()
    parameters = connections["default"].get_connection_params()
    assert parameters["tcp_user_timeout"] == PARAMETERS["tcp_user_timeout"]


def test_connection_options_of_the_operator_take_precedence(options):
    options |= {"tcp_user_timeout": 1234, "keepalives": 0, "sslmode": "require"}
    set_connection_defaults()
    assert options == {
        **PARAMETERS,
        "tcp_user_timeout": 1234,
        "keepalives": 0,
        "sslmode": "require",
    }


def test_connect_timeout_of_the_environment_takes_precedence(options, monkeypatch):
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "77")
    set_connection_defaults()
    assert "connect_timeout" not in options and "tcp_user_timeout" in options


def test_connection_parameters_of_a_service_file_take_precedence(options, monkeypatch, tmp_path):
    file = tmp_path / "services.conf"
    file.write_text("[pulp]\ntcp_user_timeout=4321\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("PGSERVICE", "pulp")
    set_connection_defaults()
    assert "tcp_user_timeout" not in options and "connect_timeout" in options


def test_connection_service_in_the_options_has_no_defaults(options):
    options["service"] = "pulp"
    set_connection_defaults()
    assert options == {"service": "pulp"}
