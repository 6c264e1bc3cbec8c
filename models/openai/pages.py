"""Reads a page of a tenant's rows by their age: the rows after the row whose id is the cursor."""

from typing import Literal, TypeVar

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from ...errors import RequestError
from ..tables import File, Job

Order = Literal["asc", "desc"]
Row = TypeVar("Row", File, Job)


def page_by_age(
    session: Session, table: type[Row], wanted: Select[Row], tenant: str, *, after: str | None, limit: int,
    order: Order = "desc",
) -> tuple[list[Row], bool]:  # fmt: skip
    """Read a page of rows in the order of their creation, and of their ids where they were created at once.

    Args:
        session: An open session.
        table: The table of the rows.
        wanted: The rows of the whole list.
        tenant: Their owner, who owns the cursor's row as well.
        after: The id of the last row of the page before.
        limit: The length of the page.
        order: ``desc`` lists the newest first.

    Returns:
        The rows, and True if more follow.

    Raises:
        RequestError: ``after`` is no row of this tenant.
    """
    age = tuple_(table.created_at, table.id)
    if after is not None:
        place = select(table.created_at, table.id).where(table.id == after, table.tenant == tenant)
        last = session.execute(place).one_or_none()
        if last is None:
            raise RequestError("after is no item of this list.", reason="invalid_cursor", param="after")
        wanted = wanted.where(age < tuple_(*last) if order == "desc" else age > tuple_(*last))
    columns = (table.created_at, table.id)
    ordered = wanted.order_by(*(column.desc() if order == "desc" else column for column in columns))
    rows = list(session.scalars(ordered.limit(limit + 1)))
    return rows[:limit], len(rows) > limit
