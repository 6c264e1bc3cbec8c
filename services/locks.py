"""Runs a change of the record under a named lock, so that two changes of one thing never overlap."""

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from ..errors import UnavailableError
from ..models.database import get_database
from ..models.scope.scope import Scope

TRIES = 200
PAUSE_S = 0.02
T = TypeVar("T")


def content_lock(uri: str) -> str:
    """Return the name of a content's lock: its removal, and a new file over it, exclude each other."""
    return f"content:{uri}"


def with_lock(name: str, change: Callable[[Session], T]) -> T:
    """Run a change in one transaction that holds the named lock; the session reaches every tenant's rows.

    Raises:
        UnavailableError: Another change held the lock the whole time.
    """
    database = get_database()
    for _ in range(TRIES):
        with database.transaction(Scope.everything) as session:
            if database.advisory_lock(session, name):
                return change(session)
        time.sleep(PAUSE_S)
    raise UnavailableError("another request changes the same thing.", hint="Send the request again.")
