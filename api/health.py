"""Answers the probes of a supervisor: ``/healthz`` (the process serves) and ``/readyz`` (it reaches the record)."""

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text

from ..models.database import get_database
from ..models.scope.scope import Scope
from .answers import ErrorAnswer

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The answer of a probe."""

    status: str


@router.get("/healthz")
def healthz() -> Health:
    """Answer that the process serves requests."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": ErrorAnswer}})
def readyz() -> Health:
    """Answer that the record can be reached and has this version's tables; the broker may be away."""
    database = get_database()
    database.require_schema()
    with database.session(Scope.everything) as session:
        session.execute(text("SELECT 1"))
    return Health(status="ready")
