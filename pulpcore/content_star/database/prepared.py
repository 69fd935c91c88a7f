"""Queries in SQL of ours, and model instances from their rows: the ORM without its compiler.

Everything here blocks and runs behind the database door.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from string import Template
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from django.db import DatabaseError, connection, models
from django.db.models import DEFERRED
from psycopg.errors import (
    DuplicatePreparedStatement,
    FeatureNotSupported,
    InvalidSqlStatementName,
)

from pulpcore.app.models import Artifact, ContentArtifact, RepositoryVersion

log = logging.getLogger(__name__)

# What running a prepared statement raises that running its query would not: a pooler gave us
# another session, or a migration changed the type of a column.
_NOT_PREPARED = (InvalidSqlStatementName, FeatureNotSupported)

# Not read until somebody asks for it: a version's `content_ids` holds the id of every content unit
# in it (pulpcore issue 7867), and digests other than SHA-256 are never sent. Times of a file's rows
# are not sent either, and psycopg takes longer to read one than all else of its row.
_TIMES = frozenset({"pulp_created", "pulp_last_updated", "timestamp_of_interest"})
_DEFERRED: Mapping[type[models.Model], frozenset[str]] = {
    RepositoryVersion: frozenset({"content_ids"}),
    Artifact: frozenset({"md5", "sha1", "sha224", "sha384", "sha512"}) | _TIMES,
    ContentArtifact: _TIMES,
}

_known_fields: dict[type[models.Model], tuple[tuple[str, Any], ...]] = {}


class Row:
    """A row of a query, read from left to right."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values: Iterator[Any] = iter(values)

    def value(self) -> Any:
        """Return the next column."""
        return next(self._values)

    def columns_of(self, model: type[models.Model]) -> dict[str, Any] | None:
        """Return the columns of `model` as its fields have them; None for an outer join's void."""
        values = {
            name: next(self._values) if convert is None else convert(next(self._values))
            for name, convert in _fields(model)
        }
        return None if values[model._meta.pk.attname] is None else values

    def instance(self, model: type[models.Model]) -> Any:
        """Return the instance of `model` in the next columns, or None."""
        columns = self.columns_of(model)
        return None if columns is None else make(model, columns)


def make(model: type[models.Model], columns: Mapping[str, Any]) -> Any:
    """Return an instance of `model` as the database has it, what is not in `columns` deferred."""
    values = [columns.get(field.attname, DEFERRED) for field in model._meta.concrete_fields]
    return model.from_db(connection.alias, (), values)


class Query:
    """A query that each connection prepares once: to plan one takes ten times as long as to run it.

    Statements are prepared in SQL, under names made of their text. Whatever a pooler between us
    and PostgreSQL does with sessions (PgBouncer's `pool_mode = transaction`), a name stands for one
    query or for none. If for none, all queries are sent plainly from then on, as they are where
    `OPTIONS` of the database say `"prepare_threshold": None`.
    """

    prepares: ClassVar[bool] = True
    """Whether that works here, as far as is known."""

    _prepared: ClassVar[WeakKeyDictionary[Any, set[str]]] = WeakKeyDictionary()

    def __init__(
        self,
        text: str,
        tables: Mapping[str, type[models.Model]],
        parameters: Mapping[str, str],
    ) -> None:
        """`$columns` in `text` become those of `tables`, models by their aliases.

        `parameters` are types by the names that `text` has as `%(name)s`.
        """
        self._template = Template(text)
        self.tables = tables
        self.parameters = parameters

    @cached_property
    def text(self) -> str:
        """The query, with `%(name)s` for its parameters."""
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
        """Return the first row, or None."""
        return next(iter(self.all(parameters)), None)

    def all(self, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows."""
        with connection.cursor() as cursor:
            try:
                cursor.execute(self._statement(), parameters)
            except DatabaseError as error:
                if not isinstance(error.__cause__, _NOT_PREPARED):
                    raise
                log.info("Queries are not prepared any more: %s", error)
                Query.prepares = False
                cursor.execute(self.text, parameters)
            return [Row(values) for values in cursor.fetchall()]

    def _statement(self) -> str:
        options = connection.settings_dict["OPTIONS"]
        if not self.prepares or options.get("prepare_threshold", 0) is None:
            return self.text
        if connection.in_atomic_block:  # an error would cost the transaction
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
    """Names of the loaded fields, with what makes a value of the database one of Python's."""
    if model not in _known_fields:
        _known_fields[model] = tuple((field.attname, _converter(field)) for field in _loaded(model))
    return _known_fields[model]


def _converter(field: Any) -> Any:
    convert = getattr(field, "from_db_value", None)
    return convert and (lambda value: convert(value, None, connection))
