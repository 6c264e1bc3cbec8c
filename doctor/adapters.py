"""Finds published adapters that a fixed fault of celora may have affected, for `celora doctor --adapters`.

Only the record is read: the base and the receipt of each adapter's job (``tuning.semantics`` judges them). An adapter
whose job's data was swept keeps its receipt in the record.
"""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import CeloraError
from ..models.database import Database
from ..models.scope.scope import Scope
from ..models.tables import Adapter, Job
from ..settings.settings import Settings
from ..tuning.semantics import Trained, faults_of
from .finding import Finding, ok, refused, warn

CHECK = "adapters"


def adapters(settings: Settings) -> Iterator[Finding]:
    """Yield a warning for each adapter and each fixed fault that may have affected it, the newest adapter first."""
    database = Database(settings.database)
    try:
        database.require_schema()
        with database.session(Scope.everything) as session:
            yield from judged_adapters(session)
    except CeloraError as error:
        yield refused(CHECK, error)
    finally:
        database.dispose()


def judged_adapters(session: Session) -> Iterator[Finding]:
    """Yield the findings on the adapters of a record; a single ``ok`` where no adapter is affected."""
    rows = select(Adapter.id, Adapter.name, Adapter.tenant, Job.base, Job.prepared)
    count = touched = 0
    for adapter_id, name, tenant, base, prepared in session.execute(
        rows.join(Job, Job.id == Adapter.id).order_by(Adapter.created_at.desc(), Adapter.id)
    ):
        count += 1
        faults = faults_of(Trained.of(base or {}, (prepared or {}).get("receipt") or {}))
        touched += bool(faults)
        for fault in faults:
            yield warn(
                f"{CHECK}.{adapter_id}", f"{name} of {tenant}: {fault.found}", fault.remedy.format(id=adapter_id)
            )
    if not touched:
        yield ok(CHECK, f"{count} published; no mended fault touches them" if count else "none is published")
