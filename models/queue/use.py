"""Adds the GPU seconds of a charge to the recent use of its tenant, by which the queue is shared."""

from sqlalchemy.orm import Session

from ..database import now
from ..rows import upsert_insert
from ..tables import TenantUse


def add_use(session: Session, tenant: str, gpu_seconds: float) -> None:
    """Add GPU seconds to the use of a tenant; the next scheduling round takes the decay off."""
    if gpu_seconds <= 0:
        return
    row = upsert_insert(session, TenantUse).values(tenant=tenant, gpu_seconds=gpu_seconds, at=now(session))
    added = {"gpu_seconds": TenantUse.gpu_seconds + row.excluded.gpu_seconds}
    session.execute(row.on_conflict_do_update(index_elements=["tenant"], set_=added))
