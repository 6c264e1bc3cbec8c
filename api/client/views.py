"""Reads the answers of a server into the records that the commands print.

A field that the server leaves out, such as the name of a worker, is empty. A form that cannot be read is named with
both versions, since client and server may differ.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ...errors import UnavailableError
from .connection import Answer

Record = TypeVar("Record")


def read(kind: type[Record], answer: Answer, **known: Any) -> Record:
    """Read an answer into a frozen record.

    Args:
        kind: The record, a dataclass.
        answer: The object of the answer; what the record has no field for is left out.
        known: Values that take precedence over the answer's.

    Raises:
        UnavailableError: The answer has another form.
    """
    given = {**answer, **known}
    names = [one.name for one in fields(kind) if one.default is MISSING]  # pyright: ignore[reportArgumentType]
    try:
        return _adapter(kind).validate_python({name: given.get(name) for name in names})
    except ValidationError as error:
        raise unreadable(error.errors(include_url=False)[0]) from None


def unreadable(fault: Mapping[str, Any]) -> UnavailableError:
    """Make the error of an answer that has another form, from pydantic's first fault."""
    place = ".".join(str(part) for part in fault["loc"])
    return UnavailableError(
        f"the server's answer can't be read ({place}: {fault['msg']}).",
        hint="Use the version of celora that the server has.",
    )


@cache
def _adapter(kind: type[Record]) -> TypeAdapter[Record]:
    return TypeAdapter(kind)
