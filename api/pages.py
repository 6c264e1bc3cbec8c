"""The lists of OpenAI's contract: ``{"object": "list", "data": [...], "has_more": …}``, and their cursors.

A client asks for the next page by itself until ``has_more`` is false.
"""

from typing import Annotated, Generic, Literal, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel


class Listed(BaseModel):
    """An object of a list: it has an id, which is the cursor of the next page."""

    id: str


Item = TypeVar("Item", bound=Listed)

After = Annotated[str | None, Query(max_length=128, description="the id of the last item of the page before")]


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None

    @classmethod
    def of(cls, data: list[Item], *, has_more: bool) -> Self:
        """Make a page of its items."""
        ids = [item.id for item in data]
        return cls(data=data, has_more=has_more, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)


class Deleted(BaseModel):
    """The answer of a deletion."""

    id: str
    object: str
    deleted: Literal[True] = True
