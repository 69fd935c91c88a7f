"""A pytest plugin with which the Pulp of the session cannot start."""

from typing import NoReturn

from tests.support.instance import Instance


def pytest_collection_finish() -> None:
    Instance.start = fail  # type: ignore[method-assign]


def fail(instance: Instance, seconds: float = 0) -> NoReturn:
    raise AssertionError("PostgreSQL did not answer in time")
