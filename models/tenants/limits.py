"""Reads and sets the limits of a tenant, and finds the limit that a further use would break."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ...errors import SettingsError, did_you_mean
from ..database import now
from ..rows import upsert_insert
from ..states import JobClass
from ..tables import Adapter, Checkpoint, Dataset, File, Job, LedgerMonth, Tenant
from .use import MICROS, MINUTE_MS, Use

Over = Literal["wait", "refuse"]
OVER: tuple[Over, ...] = ("wait", "refuse")
LEAST_PRIORITY, MOST_PRIORITY = -100, 100
LARGEST = 2**53
"""Above this number floating-point numbers skip whole ones; no limit needs it."""
RANGES = {"max_priority": (LEAST_PRIORITY, MOST_PRIORITY), "weight": (0.001, 1_000_000)}
"""The least and the largest value of the limits that cannot be lifted; with other weights no share can be computed."""
WHOLE = frozenset({"max_jobs", "max_gpus", "storage_bytes", "max_priority"})
"""Limits that count whole things."""


UNSEEN = ""
"""Stands in ``Tenant.judged`` for limits with which no waiting job was compared."""

TENANT_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a tenant; None means that a limit does not exist, 0 that nothing may be used.

    Attributes:
        max_jobs: Jobs that are worked on at once.
        max_gpus: Devices at once.
        gpu_minutes: Device minutes of a UTC month.
        budget: Money of a UTC month, in the currency of the prices.
        storage_bytes: Bytes of files, datasets, checkpoints and adapters.
        max_priority: The highest priority that a job may have.
        weight: The tenant's share of the devices, relative to the others'.
        over: ``wait`` or ``refuse``: the answer to a job beyond a limit.
        classes: The classes of jobs that it may submit, joined by commas.
    """

    max_jobs: int | None = None
    max_gpus: int | None = None
    gpu_minutes: float | None = None
    budget: float | None = None
    storage_bytes: int | None = None
    max_priority: int = MOST_PRIORITY
    weight: float = 1.0
    over: str = "wait"
    classes: str = f"{JobClass.NORMAL},{JobClass.BACKGROUND}"

    @property
    def granted(self) -> list[JobClass]:
        """The classes of jobs that the tenant may submit."""
        return [each for each in JobClass if each in self.classes.split(",")]

    @classmethod
    def of(cls, row: Tenant) -> "Limits":
        """Read the limits of a tenant's row."""
        return cls(**{field.name: getattr(row, field.name) for field in fields(cls)})

    def left(self, month: LedgerMonth, own: Use) -> "Left":
        """Return what one job may hold of a month, beside the month's charges and the holds of the others."""
        taken = Use(month.spent_ms + month.held_ms, month.spent_micros + month.held_micros) - own
        return Left(
            None if self.gpu_minutes is None else max(0, round(self.gpu_minutes * MINUTE_MS) - taken.device_ms),
            None if self.budget is None else max(0, round(self.budget * MICROS) - taken.cost_micros),
        )


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a month's limits; None where there is no limit."""

    device_ms: int | None
    cost_micros: int | None

    def lacks(self, wanted: Use) -> Literal["gpu_minutes", "budget"] | None:
        """Name the limit that a use would break; a limit of which nothing is left is broken by every use."""
        if self.device_ms is not None and (wanted.device_ms > self.device_ms or not self.device_ms):
            return "gpu_minutes"
        if self.cost_micros is not None and (wanted.cost_micros > self.cost_micros or not self.cost_micros):
            return "budget"
        return None

    def bounded(self, wanted: Use) -> Use:
        """Return the part of a use that is left."""
        return Use(
            wanted.device_ms if self.device_ms is None else min(wanted.device_ms, self.device_ms),
            wanted.cost_micros if self.cost_micros is None else min(wanted.cost_micros, self.cost_micros),
        )


def check_tenant_name(name: str) -> str:
    """Return a name that a tenant can have.

    Raises:
        SettingsError: It can't be a tenant's name.
    """
    if not TENANT_NAME.fullmatch(name):
        raise SettingsError(
            f"{name[:64]!r} can't be a tenant's name.", hint="Use 1 to 64 letters, digits, '.', '_' and '-'."
        )
    return name


def add_tenant(session: Session, name: str) -> None:
    """Make the tenant's row unless it exists."""
    made = upsert_insert(session, Tenant).values(name=name, created_at=now(session))
    session.execute(made.on_conflict_do_nothing(index_elements=["name"]))


def limits_of(session: Session, tenant: str) -> Limits:
    """Read the limits of a tenant; no limits for one that has no row yet."""
    row = session.get(Tenant, tenant, populate_existing=True)
    return Limits() if row is None else Limits.of(row)


def set_limits(session: Session, tenant: str, changes: Mapping[str, int | float | str | None]) -> Limits:
    """Set some limits of a tenant, which is made where it is missing.

    Raises:
        SettingsError: A value is negative, no finite number, or out of range.
    """
    for name, value in changes.items():
        _check(name, value)
    add_tenant(session, tenant)
    row = session.scalars(select(Tenant).where(Tenant.name == tenant).with_for_update()).one()
    for name, value in changes.items():
        setattr(row, name, value)
    row.judged = UNSEEN
    session.flush()
    return Limits.of(row)


def stored_bytes(session: Session, tenant: str) -> int:
    """Sum the bytes of a tenant's files, datasets, checkpoints and adapters."""
    sums = (
        select(func.sum(File.size_bytes)).where(File.tenant == tenant, File.deleted_at.is_(None)),
        select(func.sum(Dataset.size_bytes)).where(Dataset.tenant == tenant),
        select(func.sum(Adapter.size_bytes)).where(Adapter.tenant == tenant),
        select(func.sum(Checkpoint.size_bytes)).join(Job, Job.id == Checkpoint.job_id).where(Job.tenant == tenant),
    )
    return sum(int(session.scalar(each) or 0) for each in sums)


def _check_classes(text: str) -> None:
    known, given = [each.value for each in JobClass], text.split(",")
    wrong = [each for each in given if each not in known]
    if wrong or JobClass.NORMAL not in given:
        fault = f"there is no class {wrong[0][:40]!r}" if wrong else "every tenant may submit normal jobs"
        others = " or ".join(each for each in known if each != JobClass.NORMAL)
        raise SettingsError(f"--classes: {fault}.", hint=f"Write normal, and {others} beside it, by commas.")


def _check(name: str, value: float | str | None) -> None:
    option = f"--{name.replace('_', '-')}"
    known = [field.name for field in fields(Limits)]
    if name not in known:
        raise SettingsError(f"there is no limit {name[:40]!r}" + did_you_mean(name[:40], known))
    if name == "classes":
        _check_classes(str(value or ""))
        return
    if name == "over":
        if value not in OVER:
            raise SettingsError(f"{option}: {str(value)[:40]!r} is no answer.", hint="Use wait or refuse.")
        return
    if value is None:
        if name in ("max_priority", "weight"):
            raise SettingsError(f"{option} can't be lifted.", hint="Its default is 100 for a priority, 1 for a weight.")
        return
    if isinstance(value, str) or (name in WHOLE and not isinstance(value, int)):
        what = "whole number" if name in WHOLE else "number"
        raise SettingsError(f"{option}: {str(value)[:40]!r} is no {what}.", hint=f"Give a {what}.")
    _check_range(name, option, value)


def _check_range(name: str, option: str, value: float) -> None:
    least, most = RANGES.get(name, (0, LARGEST))
    if not least <= value <= most:
        shown = "so large a number" if value > LARGEST else "so small a number" if value < -LARGEST else value
        lifts = "" if name in RANGES else ", or none"
        raise SettingsError(f"{option}: {shown} is out of range.", hint=f"Use a number from {least} to {most}{lifts}.")
