"""Judges the rows that a gate requires (``must_pass``) of a job over HTTP: a file or a dataset of the tenant's own.

Elsewhere a gate may name a file by its path. Over HTTP a path would be one of the server's, which no tenant may read.
"""

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy.orm import Session

from ...errors import RequestError
from ...models.database import get_database
from ...models.datasets import Reference
from ...models.openai import files
from ...models.scope.scope import Scope
from .files import PURPOSE

FILE = "file-"


def place_required(session: Session, tenant: str, gate: object, *, param: str) -> object:
    """Return a gate with the place of its file in the place of the file's id.

    Args:
        session: An open session.
        tenant: The owner.
        gate: The gate as the request has it; a value that is none is left to the spec's own check.
        param: The gate's dotted place in the request.

    Raises:
        RequestError: ``must_pass`` is neither a file of the tenant's nor a name of a dataset.
    """
    given: Mapping[str, Any] = cast("Mapping[str, Any]", gate) if isinstance(gate, Mapping) else {}
    rows = given.get("must_pass")
    if not isinstance(rows, str):
        return cast("object", gate)
    place = f"{param}.must_pass"
    if not rows.startswith(FILE):
        if Reference.parse(rows) is None:
            raise RequestError(f"{place}: give the id of a file, or the name of a dataset.", param=place)
        return given
    try:
        file = files.find(session, tenant, rows)
    except RequestError as error:
        raise RequestError(error.message, param=place) from None
    if file.purpose != PURPOSE:
        raise RequestError(f"{place}: the purpose of {rows} must be {PURPOSE}.", param=place)
    return {**given, "must_pass": file.uri}


def placed_changes(tenant: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changed fields of a retry with the place of a gate's file.

    Raises:
        RequestError: The gate names no rows of the tenant's.
    """
    if "gate" not in changes:
        return dict(changes)
    with get_database().session(Scope.of(tenant)) as session:
        return {**changes, "gate": place_required(session, tenant, changes["gate"], param="changes.gate")}
