"""What all tables are made of: the base class, and column types that hold the same in both databases.

Every time is timezone-aware UTC (a naive one is refused, and SQLite's are read back as aware), text is made storable in
both databases (PostgreSQL takes no NUL), and JSON never holds NaN.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Enum, Float, ForeignKey, MetaData, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from .states import Reason, Stage, Status

JsonObject = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time, in both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time; SQLite, which keeps no zone, gets the UTC wall clock."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} is naive; the record takes timezone-aware times only")
        aware = value.astimezone(UTC)
        return aware.replace(tzinfo=None) if dialect.name == "sqlite" else aware

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  (the signature is SQLAlchemy's)
        """Give the zone back to SQLite's times."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text from anywhere: NUL and lone surrogates, which a database refuses, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002  (the signature is SQLAlchemy's)
        """Make the text storable."""
        if value is None:
            return None
        whole = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return whole.replace("\x00", "\N{REPLACEMENT CHARACTER}")


class FiniteJson(TypeDecorator[Any]):
    """JSON without NaN and infinities: they become null, since JSON has none."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002  (the signature is SQLAlchemy's)
        """Replace what JSON can't say."""
        return _finite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _values(members: Iterable[StrEnum]) -> list[str]:
    return [member.value for member in members]


def _words_of(kind: type[StrEnum]) -> Enum:
    return Enum(kind, native_enum=False, length=16, values_callable=_values)


class Table(DeclarativeBase):
    """What all tables share: the constraints' names (so that migrations can speak of them) and the column types."""

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
        Status: _words_of(Status),
        Stage: _words_of(Stage),
        Reason: _words_of(Reason),
    }


def job_key(*, primary: bool = False) -> Mapped[str]:
    """The column of a row that belongs to a job and goes with it."""
    return mapped_column(String(64), ForeignKey("job.id", ondelete="CASCADE"), primary_key=primary)
