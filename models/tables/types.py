"""Defines the base class of all tables, and column types that hold the same values in both databases.

Every time is timezone-aware UTC: a naive one is refused, and SQLite's are read back as aware. Text is made storable in
both databases (PostgreSQL accepts no NUL), and JSON holds neither NaN nor such text.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Enum, Float, ForeignKey, MetaData, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from ...storage.json_values import JsonObject, storable, storable_text
from ..states import JobClass, Reason, Stage, Status


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time, in both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time; SQLite, which stores no zone, gets the UTC wall clock."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} is naive; the record takes timezone-aware times only")
        aware = value.astimezone(UTC)
        return aware.replace(tzinfo=None) if dialect.name == "sqlite" else aware

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  (the signature is SQLAlchemy's)
        """Add the UTC zone to SQLite's times."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text from anywhere: NUL and lone surrogates, which a database refuses, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002  (the signature is SQLAlchemy's)
        """Make the text storable."""
        return None if value is None else storable_text(value)


class FiniteJson(TypeDecorator[Any]):
    """JSON without NaN, infinities, NUL and lone surrogates (``storage.json_values``)."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002  (the signature is SQLAlchemy's)
        """Replace the values that JSON or PostgreSQL cannot hold."""
        return storable(value)


def _values(members: Iterable[StrEnum]) -> list[str]:
    return [member.value for member in members]


def _words_of(kind: type[StrEnum]) -> Enum:
    return Enum(kind, native_enum=False, length=16, values_callable=_values)


class Table(DeclarativeBase):
    """The base of all tables: it names constraints, so that migrations can refer to them, and maps types to columns.

    The predicate of a partial index stands in its ``info`` as ``where``. An option of a dialect would import the code
    of both databases, a tenth of a short command; and only migrations make indexes.
    """

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, type[TypeEngine[Any]] | TypeEngine[Any]]] = {
        str: Words(),
        datetime: UtcDateTime(),
        float: Float(53),
        JsonObject: FiniteJson(),
        list[str]: FiniteJson(),
        dict[str, int]: FiniteJson(),
        dict[str, float]: FiniteJson(),
        Status: _words_of(Status),
        Stage: _words_of(Stage),
        Reason: _words_of(Reason),
        JobClass: _words_of(JobClass),
    }


def job_key(*, primary: bool = False) -> Mapped[str]:
    """Make the column that refers a row to its job; the row is deleted with the job."""
    return mapped_column(String(64), ForeignKey("job.id", ondelete="CASCADE"), primary_key=primary)
