"""Checks a job before it is accepted: its spec against this installation, and its id.

A job that is refused here costs no GPU. ``models.spec`` holds the rules of every installation (types, ranges, fields
that exclude each other); this module holds those that depend on the settings.
"""

import fnmatch
import os
import random
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import BaseModelError, DataError, SettingsError
from ..models import datasets, queries
from ..models.scope.scope import Scope
from ..models.spec import JOB_ID_PATTERN, PARENTS_BASE, JobSpec, parse_spec
from ..models.tables import Dataset, File
from ..settings import bases
from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings
from ..storage.paths import confine
from ..tuning.files.sources import is_remote, judge
from ..tuning.files.suffixes import fixed_folder, is_several
from ..tuning.recipe import TEMPLATES
from ..workers.trainer.limits import source_access
from .first_row import require_method
from .tenants.prospects import check_size


def check_spec(fields: Mapping[str, object], settings: Settings, *, to_train: bool = True) -> JobSpec:
    """Validates a spec against this installation: its fields, GPU types, base models and allowed folders.

    A seed is chosen where none was given, so that the record knows it.

    Args:
        fields: The fields of the spec.
        settings: The installation's.
        to_train: Refuse a file of rows for another method; `celora check` names the method that fits instead.

    Raises:
        SettingsError, DataError, BaseModelError: The spec is refused; the message names the field and what to do.
    """
    spec = parse_spec(dict(fields))
    _check_gpu(spec, settings)
    _check_template(spec)
    _check_base(spec, settings)
    check_size(spec, settings)
    for source in sources_of(spec):
        _check_source(source, settings)
    local = Path(spec.dataset).is_absolute() and not is_remote(spec.dataset)
    if (
        to_train and local and not _is_artifact(spec.dataset, settings)
    ):  # ``place_datasets`` judges whose an artifact is
        require_method(Path(spec.dataset), spec.columns, spec.method)
    seed = random.randrange(2**31) if spec.seed is None else spec.seed  # noqa: S311  (no secret)
    return spec.model_copy(update={"seed": seed})


def owned_by(scope: Scope, fields: Mapping[str, object]) -> dict[str, object]:
    """Returns the fields of a spec with the tenant of a scope; the scope of everything leaves the tenant as it is.

    Raises:
        SettingsError: The spec names another tenant.
    """
    if scope.tenant is None:
        return dict(fields)
    if fields.get("tenant", scope.tenant) != scope.tenant:
        raise SettingsError("tenant: a job can only be the caller's own.", hint="Leave the field out.")
    return {**fields, "tenant": scope.tenant}


def check_tenant(session: Session, tenant: str, settings: Settings) -> None:
    """Refuses a tenant that does not exist, where an operator wants none to be made by its first use.

    Raises:
        NotFoundError: There is no such tenant.
    """
    if settings.known_tenants_only:
        queries.get_tenant(session, tenant)


def place_datasets(
    session: Session, spec: JobSpec, settings: Settings, *, known: Collection[str] = ()
) -> tuple[JobSpec, dict[str, Dataset]]:
    """Replaces the names of datasets by their places; refuses artifacts that are no dataset of the spec's tenant.

    Args:
        session: An open session.
        spec: The spec.
        settings: The installation's.
        known: Further sources that are allowed: those of the job that a retry continues.

    Returns:
        The new spec, and the versions by role.

    Raises:
        NotFoundError: A name or a version does not exist.
        DataError: A source is an artifact, and no dataset of the tenant.
    """
    placed, versions = datasets.resolve(session, spec)
    own = {version.uri for version in versions.values()}.union(known)
    for source in sources_of(placed):
        if source not in own and _is_artifact(source, settings) and not _is_own_file(session, spec.tenant, source):
            raise DataError(
                f"{source} lies in the folder of the installation and is no dataset of tenant {spec.tenant}.",
                hint="Name a dataset (`celora datasets list`), or give the path of a file of your own.",
            )
    return placed, versions


def _is_own_file(session: Session, tenant: str, uri: str) -> bool:
    mine = (File.tenant == tenant, File.uri == uri, File.deleted_at.is_(None))
    return session.scalar(select(File.id).where(*mine).limit(1)) is not None


def absolute_base(fields: Mapping[str, object]) -> dict[str, object]:
    """Returns the fields with the whole path of a base that is a folder or file where the caller runs."""
    source = fields.get("base_model")
    return {**fields, "base_model": bases.absolute_source(source)} if isinstance(source, str) else dict(fields)


def check_id(job_id: str) -> str:
    """Returns the id itself, if a job may have it.

    Raises:
        SettingsError: It cannot be a job's id.
    """
    if not re.fullmatch(JOB_ID_PATTERN, job_id):
        raise SettingsError(
            f"{job_id!r} cannot be a job id.", hint="Use 1 to 64 letters, digits, underscores and hyphens."
        )
    return job_id


def _check_gpu(spec: JobSpec, settings: Settings) -> None:
    types = gpu_catalogue(settings.gpus)
    if spec.gpu != "auto" and spec.gpu not in types:
        raise SettingsError(f"gpu: there is no GPU type {spec.gpu!r}.", hint=f"Use auto or one of {', '.join(types)}.")


def _check_template(spec: JobSpec) -> None:
    if spec.template is not None and spec.template not in TEMPLATES:
        raise SettingsError(
            f"template: there is no template {spec.template!r}.",
            hint=f"Leave it unset for the base's own, or use one of {', '.join(TEMPLATES)}.",
        )


def _check_base(spec: JobSpec, settings: Settings) -> None:
    if spec.base_model == PARENTS_BASE:
        return  # the parent's own base was checked when the parent was submitted; the trainer checks it again
    if bases.is_relative_path(spec.base_model):
        raise BaseModelError(
            f"base_model: {spec.base_model!r} is a relative path that is no folder and no .gguf file where the job was "
            "submitted, and the workers run in another folder.",
            hint="Give the absolute path.",
        )
    if settings.allowed_bases and not any(fnmatch.fnmatch(spec.base_model, name) for name in settings.allowed_bases):
        raise BaseModelError(
            f"base_model: {spec.base_model!r} is not allowed on this installation.",
            hint=f"Use one of {', '.join(settings.allowed_bases)}.",
        )
    if _is_artifact(spec.base_model, settings):
        raise BaseModelError(
            f"base_model: {spec.base_model} is a file of the installation.",
            hint="Name a base model (`celora bases`), or give a folder of your own; `celora pull --merge` makes one.",
        )
    if Path(spec.base_model).is_absolute():
        try:
            confine(spec.base_model, settings.allowed_roots)
        except DataError as error:
            raise BaseModelError(f"base_model: {error.message}", hint=error.hint) from None


def sources_of(spec: JobSpec) -> Iterator[str]:
    """Yields every dataset that a spec names: to train on, to measure on, and to pass."""
    yield spec.dataset
    if isinstance(spec.eval_dataset, dict):
        yield from spec.eval_dataset.values()
    elif spec.eval_dataset:
        yield spec.eval_dataset
    if spec.gate and spec.gate.must_pass:
        yield spec.gate.must_pass


def _check_source(source: str, settings: Settings) -> None:
    """Refuses a file or address that no worker may read; ``place_datasets`` judges names of datasets and artifacts."""
    if datasets.Reference.parse(source) or _is_artifact(source, settings):
        return
    if is_remote(source):
        judge(source, source_access(settings))
    else:
        confine(fixed_folder(source), settings.allowed_roots)


def _is_artifact(source: str, settings: Settings) -> bool:
    """Returns whether a source lies below the artifact root, or is a folder or pattern that may lead there.

    Where the root is local, every path to it counts, not only its URI.
    """
    root = settings.artifacts.rstrip("/")
    scheme, separator, folder = root.rpartition("://")
    if scheme not in ("", "file"):
        start = f"{scheme}{separator}"
        return source[: len(start)].lower() == start.lower() and source[len(start) :].startswith(f"{folder}/")
    path = source[7:] if source.lower().startswith("file://") else source
    if not path.startswith("/") or "\x00" in path:
        return False
    real, top = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath((real, top)) == top or (is_several(path) and _leads_to(real, top))


def _leads_to(source: str, folder: str) -> bool:
    """Returns whether the walk of a folder, or a pattern, may reach a folder; a walk enters no hidden folder."""
    steps, wanted = PurePath(source).parts, PurePath(folder).parts
    for number, step in enumerate(wanted):
        if number == len(steps):
            return not any(each.startswith(".") for each in wanted[number:]) and os.path.isdir(source)  # noqa: PTH112  (a string)
        if steps[number] == "**":
            return True
        if not fnmatch.fnmatchcase(step, steps[number]):
            return False
    return True
