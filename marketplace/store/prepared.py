"""Statements of the busiest paths, compiled once: SQLAlchemy's way to execute one costs eight times
what the database does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

Row = dict[str, Any]


class Prepared:
    """One statement whose values and results are plain numbers, texts and bytes.

    Runs within the transaction of the connection that it is given, and fails with SQLAlchemy's
    errors.
    """

    def __init__(self, statement: Any, names: Iterable[str] | None = None) -> None:
        """`statement`: one for all dialects, or one for the name of each. `names`: the columns of
        an insert."""
        self._statement = statement
        self._names = None if names is None else list(names)
        self._compiled: dict[str, _Compiled] = {}

    def run(self, db: sa.Connection, values: Mapping[str, Any]) -> list[Row]:
        """Executes it; the rows it returns, if it does."""
        name = db.dialect.name
        compiled = self._compiled.get(name)
        if compiled is None:
            by_name = isinstance(self._statement, dict)
            statement = self._statement[name] if by_name else self._statement
            compiled = self._compiled[name] = _Compiled(statement, self._names, db.dialect)
        cursor: Any = db.connection.cursor()
        try:
            cursor.execute(compiled.sql, compiled.arguments(values))
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except db.dialect.loaded_dbapi.Error as error:
            raise _of_sqlalchemy(db, compiled.sql, error, cursor) from error
        finally:
            cursor.close()

    def first(self, db: sa.Connection, values: Mapping[str, Any]) -> Row | None:
        """Executes it; its first row, or None."""
        rows = self.run(db, values)
        return rows[0] if rows else None


class _Compiled:
    def __init__(self, statement: Any, names: list[str] | None, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=names)
        self.sql = str(compiled)
        self._order: list[str] | None = compiled.positiontup if compiled.positional else None
        self._fixed = {
            name: bind.value for name, bind in compiled.binds.items() if not bind.required
        }

    def arguments(self, values: Mapping[str, Any]) -> Any:
        """The values as the driver wants them."""
        given = {**self._fixed, **values}
        return given if self._order is None else [given[name] for name in self._order]


def _of_sqlalchemy(db: sa.Connection, sql: str, error: Any, cursor: Any) -> BaseException:
    """The error as SQLAlchemy's own execution would raise it."""
    dialect, base = db.dialect, db.dialect.loaded_dbapi.Error
    is_lost = dialect.is_disconnect(error, db.connection, cursor)
    if is_lost:
        db.invalidate(error)
    raised: BaseException = sa.exc.DBAPIError.instance(
        sql, None, error, base, connection_invalidated=is_lost, dialect=dialect
    )
    return raised
