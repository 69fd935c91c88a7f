"""Prepared statements for hand-written SQL, and model instances from their rows.

Replaces the ORM's compiler on the request path. Everything here blocks and runs in the database
executor.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from string import Template
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from django.db import DatabaseError, connection, models
from psycopg.errors import (
    DuplicatePreparedStatement,
    FeatureNotSupported,
    InvalidSqlStatementName,
)

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
        columns = self.columns_of(model)
        return None if columns is None else make(model, columns)


def make(model: type[models.Model], columns: Mapping[str, Any]) -> Any:
    """Return a saved instance of `model`; fields that are not in `columns` are deferred."""
    loaded = [field.attname for field in model._meta.concrete_fields if field.attname in columns]
    return model.from_db(connection.alias, loaded, [columns[name] for name in loaded])


class Query:
    """A query that each connection prepares once, as planning takes ten times as long as execution.

    Statements are prepared in SQL, under a name that is a digest of their text. So behind a pooler
    that assigns sessions by transaction (PgBouncer's `pool_mode = transaction`), a name refers to
    the right query or does not exist. If it does not, all queries are sent unprepared from then on,
    as with `"prepare_threshold": None` in the database's `OPTIONS`.
    """

    prepares: ClassVar[bool] = True
    """Whether queries are prepared: until the first failure, in the whole process."""

    _prepared: ClassVar[WeakKeyDictionary[Any, set[str]]] = WeakKeyDictionary()

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
    def name(self) -> str:
        """The name of the prepared statement."""
        return f"content_star_{hashlib.sha256(self.text.encode()).hexdigest()[:32]}"

    def one(self, parameters: Mapping[str, Any]) -> Row | None:
        """Execute the query; return the first row, or None."""
        return next(iter(self.all(parameters)), None)

    def all(self, parameters: Mapping[str, Any]) -> list[Row]:
        """Execute the query; return all rows."""
        with connection.cursor() as cursor:
            try:
                cursor.execute(self._statement(), parameters)
            except DatabaseError as error:
                self._handle_unprepared(error)
                cursor.execute(self.text, parameters)
            return [Row(values) for values in cursor.fetchall()]

    def _handle_unprepared(self, error: DatabaseError) -> None:
        """Handle errors of EXECUTE that the plain query would not raise; raise all others."""
        match error.__cause__:
            case FeatureNotSupported():  # a migration changed the type of a column
                log.info("Prepared statement is out of date, it will be prepared again: %s", error)
                connection.connection.execute(f"DEALLOCATE {self.name}")
                self._prepared[connection.connection].discard(self.name)
            case InvalidSqlStatementName():  # a pooler assigned another session
                log.info("Prepared statement failed, queries are sent unprepared now: %s", error)
                Query.prepares = False
            case _:
                raise error

    def _statement(self) -> str:
        options = connection.settings_dict["OPTIONS"]
        if not self.prepares or options.get("prepare_threshold", 0) is None:
            return self.text
        if connection.in_atomic_block:  # a failed EXECUTE would abort the transaction
            return self.text
        prepared = self._prepared.setdefault(connection.connection, set())
        if self.name not in prepared:
            self._prepare()
            prepared.add(self.name)
        return self._execute

    def _prepare(self) -> None:
        numbered = {name: f"${number}" for number, name in enumerate(self.parameters, start=1)}
        types = ", ".join(self.parameters.values())
        statement = f"PREPARE {self.name} ({types}) AS {self.text % numbered}"
        try:
            with connection.wrap_database_errors:
                connection.connection.execute(statement)
        except DatabaseError as error:
            if not isinstance(error.__cause__, DuplicatePreparedStatement):
                raise

    @cached_property
    def _execute(self) -> str:
        return f"EXECUTE {self.name} ({', '.join(f'%({name})s' for name in self.parameters)})"


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
