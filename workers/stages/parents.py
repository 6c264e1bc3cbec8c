"""Fetches the adapters that a job goes on from and is compared with, and checks that they belong to its base."""

from ...errors import BaseModelError, SettingsError, StorageError
from ...models.adapters import lineage
from ...models.adapters.lineage import THE_BASE, Parent
from ...models.scope.scope import Scope
from ...tuning.protocol import Base
from .claimed import ClaimedStage


def folders(stage: ClaimedStage) -> dict[str, str]:
    """Return local folders for the request of the trainer: ``start_from`` and ``reference``, where the job has them.

    Raises:
        StorageError: An adapter's files are gone.
    """
    found: dict[str, str] = {}
    start, reference = stage.spec.continue_from, stage.spec.reference
    if start is not None:
        found["start_from"] = _fetch(stage, start, "parent", field="continue_from")
    if stage.spec.method not in ("dpo", "kto") or reference == THE_BASE:
        return found
    if reference is not None:
        found["reference"] = _fetch(stage, reference, "reference", field="reference")
    elif start is not None:
        found["reference"] = found["start_from"]
    return found


def require_base(stage: ClaimedStage, base: Base) -> None:
    """Refuse a base that is not the one of the job's parent or reference any more; no GPU is held yet.

    Raises:
        BaseModelError: The base has other weights than the parent was trained on.
        SettingsError: The reference was trained on another base.
    """
    if stage.spec.continue_from is not None:
        parent = _find(stage, stage.spec.continue_from, "continue_from")
        if parent.base.revision != base.revision:
            raise BaseModelError(
                f"continue_from: {parent.name} was trained on {parent.base.name} at {parent.base.revision}, and the "
                f"base is {base.revision} now.",
                hint=_remedy(parent.base),
            )
    if stage.spec.reference not in (None, THE_BASE):
        reference = _find(stage, str(stage.spec.reference), "reference")
        if reference.base.revision != base.revision:
            raise SettingsError(
                f"reference: {reference.name} was trained on {reference.base.name} at {reference.base.revision}, and "
                f"this job trains on {base.name} at {base.revision}.",
                hint="Name an adapter of the same base, or leave reference away.",
            )


def _find(stage: ClaimedStage, name: str, field: str) -> Parent:
    with stage.database.session(Scope.of(stage.job.tenant)) as session:
        found = lineage.find(session, stage.job.tenant, name, field=field)
    assert found is not None  # noqa: S101  (no name may be missing)
    return found


def _fetch(stage: ClaimedStage, name: str, folder: str, *, field: str) -> str:
    parent = _find(stage, name, field)
    try:
        return str(stage.workspace.fetch(parent.uri, folder))
    except StorageError as error:
        raise StorageError(
            f"{field}: the adapter of {parent.name} cannot be read: {error.message}",
            hint="Name another job or step, or train the parent again: `celora retry`.",
        ) from error


def _remedy(base: Base) -> str:
    if base.kind == "hub":
        return f"Fetch it: `celora bases add {base.name} --revision {base.revision}`, and retry the job."
    if base.kind == "catalogue":
        return f"Install the release of celora that has this version of {base.name}, and retry the job."
    return f"Put the weights with this SHA-256 back to {base.source}, and retry the job."
