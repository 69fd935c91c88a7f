"""Prepared statements for hand-written SQL, and model instances from their rows.

Replaces the ORM's compiler on the request path. Everything here blocks and runs in the database
executor.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from string import Template
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection, connections, models
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import (
    DuplicatePreparedStatement,
    FeatureNotSupported,
    InvalidSqlStatementName,
    error_from_result,
)
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from pulpcore.content_star.database.availability import availability
from pulpcore.plugin.models import Artifact, ContentArtifact, RepositoryVersion

log = logging.getLogger(__name__)

# Deferred fields: a version's `content_ids` has the primary key of every content unit in it
# (pulpcore issue 7867), and digests other than SHA-256 are never sent. Nor are the timestamps of a
# file's rows, and psycopg takes longer to parse one than the rest of the row.
_TIMESTAMPS = frozenset({"pulp_created", "pulp_last_updated", "timestamp_of_interest"})
_DEFERRED: Mapping[type[models.Model], frozenset[str]] = {
    RepositoryVersion: frozenset({"content_ids"}),
    Artifact: frozenset({"md5", "sha1", "sha224", "sha384", "sha512"}) | _TIMESTAMPS,
    ContentArtifact: _TIMESTAMPS,
}

_loaded_fields: dict[type[models.Model], tuple[tuple[str, Any], ...]] = {}


class Row:
    """A row of a query result, read column by column from left to right."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values: Iterator[Any] = iter(values)

    def value(self) -> Any:
        """Return the next column."""
        return next(self._values)

    def columns_of(self, model: type[models.Model]) -> dict[str, Any] | None:
        """Return the columns of `model` as field values; None for an outer join without a match."""
        values = {
            name: next(self._values) if convert is None else convert(next(self._values))
            for name, convert in _fields(model)
        }
        return None if values[model._meta.pk.attname] is None else values

    def instance(self, model: type[models.Model]) -> Any:
        """Return an instance of `model` from the next columns; None as `columns_of`."""
        columns = self.columns_of(model)  # in the order of the fields, as `from_db` needs them
        return columns and model.from_db(DEFAULT_DB_ALIAS, columns, list(columns.values()))


def make(model: type[models.Model], columns: Mapping[str, Any]) -> Any:
    """Return a saved instance of `model`; fields that are not in `columns` are deferred."""
    names = [field.attname for field in model._meta.concrete_fields]
    return model.from_db(
        DEFAULT_DB_ALIAS, columns, [columns[name] for name in names if name in columns]
    )


class Query:
    """A query that each connection prepares once, as planning takes ten times as long as execution.

    Parameters are sent apart from the text, in the extended query protocol: an array is one of
    them, however many members it has. psycopg's own prepared statements have numbers for names;
    here the name is a digest of the text. So behind a pooler that assigns sessions by transaction
    (PgBouncer's `pool_mode = transaction`), a name refers to the right query or does not exist. If
    it does not, all queries are sent unprepared from then on, as with `"prepare_threshold": None`
    in the database's `OPTIONS`.
    """

    prepares: ClassVar[bool] = True
    """Whether queries are prepared: until the first failure, in the whole process."""

    _prepared: ClassVar[WeakKeyDictionary[Any, set[bytes]]] = WeakKeyDictionary()

    def __init__(
        self,
        text: str,
        tables: Mapping[str, type[models.Model]],
        parameters: Mapping[str, str],
    ) -> None:
        """Define a query.

        `$columns` in `text` is replaced by the columns of `tables`, models by their aliases, less
        deferred ones. `parameters` are SQL types by name; `text` refers to them as `%(name)s`.
        """
        self._template = Template(text)
        self.tables = tables
        self.parameters = parameters

    @cached_property
    def text(self) -> str:
        """The SQL, with `%(name)s` for parameters."""
        columns = [
            f'{alias}."{field.column}"'
            for alias, model in self.tables.items()
            for field in _loaded(model)
        ]
        return self._template.substitute(columns=", ".join(columns))

    @cached_property
    def name(self) -> bytes:
        """The name of the prepared statement."""
        types = " ".join(self.parameters.values()).encode()
        return b"content_star_" + hashlib.sha256(self._command + types).hexdigest()[:32].encode()

    def one(self, parameters: Mapping[str, Any]) -> Row | None:
        """Execute the query; return the first row, or None."""
        return next(iter(self.all(parameters)), None)

    def all(self, parameters: Mapping[str, Any]) -> list[Row]:
        """Execute the query; return all rows."""
        # In a transaction a failed statement would abort it, and psycopg has to begin it. Django
        # logs only the queries of its own cursors.
        database = connections[DEFAULT_DB_ALIAS]  # `connection` looks it up for each attribute
        if not database.get_autocommit() or database.queries_logged:
            with database.cursor() as cursor:
                cursor.execute(self.text, parameters)
                return [Row(values) for values in cursor.fetchall()]
        database.close_if_health_check_failed()
        database.ensure_connection()
        values = [parameters[name] for name in self.parameters]
        with database.wrap_database_errors:
            rows = self._fetch(database.connection, values)
        availability.answered()
        return [Row(values) for values in rows]

    def _fetch(
        self, database: psycopg.Connection[Any], values: Sequence[Any]
    ) -> list[tuple[Any, ...]]:
        """Send the query and its parameters; return the rows. Raises `psycopg.Error`.

        With libpq's calls, since a cursor of psycopg costs three times as much.
        """
        adapter = Transformer(database)
        result = self._result(
            database, adapter.dump_sequence(values, [PyFormat.TEXT] * len(values))
        )
        adapter.set_pgresult(result)
        return adapter.load_rows(0, result.ntuples, tuple)

    def _result(self, database: psycopg.Connection[Any], values: Sequence[Any]) -> PGresult:
        if _may_prepare():
            try:
                self._prepare(database)
                return _checked(database.pgconn.exec_prepared(self.name, values))
            except FeatureNotSupported as error:  # a migration changed the type of a column
                log.info("Prepared statement is out of date, it will be prepared again: %s", error)
                self._deallocate(database)
            except InvalidSqlStatementName as error:
                self._stop_preparing(error)
        return _checked(database.pgconn.exec_params(self._command, values, self._oids(database)))

    def _prepare(self, database: psycopg.Connection[Any]) -> None:
        prepared = self._prepared.setdefault(database, set())
        if self.name in prepared:
            return
        with suppress(DuplicatePreparedStatement):  # by another client of the pooler
            _checked(database.pgconn.prepare(self.name, self._command, self._oids(database)))
        prepared.add(self.name)

    def _deallocate(self, database: psycopg.Connection[Any]) -> None:
        self._prepared[database].discard(self.name)
        try:
            database.execute(b"DEALLOCATE " + self.name)
        except InvalidSqlStatementName as error:
            self._stop_preparing(error)

    def _stop_preparing(self, error: InvalidSqlStatementName) -> None:
        log.info("A pooler assigned another session, queries are sent unprepared now: %s", error)
        Query.prepares = False

    @cached_property
    def _command(self) -> bytes:
        """The SQL, with `$1` for the first parameter."""
        numbered = {name: f"${number}" for number, name in enumerate(self.parameters, start=1)}
        return (self.text % numbered).encode()

    def _oids(self, database: psycopg.Connection[Any]) -> list[int]:
        return [database.adapters.types.get_oid(each) for each in self.parameters.values()]


def _may_prepare() -> bool:
    options = connection.settings_dict["OPTIONS"]
    return Query.prepares and options.get("prepare_threshold", 0) is not None


def _checked(result: PGresult) -> PGresult:
    """Return a result of libpq; raises its `psycopg.Error`."""
    if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        return result
    raise error_from_result(result)


def _loaded(model: type[models.Model]) -> list[Any]:
    deferred = _DEFERRED.get(model, frozenset())
    return [field for field in model._meta.concrete_fields if field.attname not in deferred]


def _fields(model: type[models.Model]) -> tuple[tuple[str, Any], ...]:
    """Return names and `from_db_value` converters of the loaded fields, in column order."""
    if model not in _loaded_fields:
        _loaded_fields[model] = tuple(
            (field.attname, _converter(field)) for field in _loaded(model)
        )
    return _loaded_fields[model]


def _converter(field: Any) -> Any:
    convert = getattr(field, "from_db_value", None)
    return convert and (lambda value: convert(value, None, connection))
