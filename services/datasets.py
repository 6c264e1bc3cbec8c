"""Adds files to the installation as versions of a named dataset, and finds the new rows of a version.

No Celery task is involved, since the file lies on the caller's machine. A trainer process reads the file within limits;
then the file is copied into the installation by its content. A file that changed in between is refused, so jobs read
the content that was checked.
"""

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from ..errors import DataError, of_code
from ..models import datasets
from ..models.database import get_database
from ..models.scope.scope import Scope
from ..models.tables import Dataset
from ..models.tenants.audit import current_actor, record_audit
from ..models.tenants.limits import check_tenant_name
from ..settings.settings import Settings, get_settings
from ..storage.artifacts import Artifacts
from ..tuning.files.source_files import one_file
from ..tuning.protocol import IndexRequest
from ..workers.trainer.limits import prepare_limits
from ..workers.trainer.supervisor import Handler, TrainerError, run_once
from .job_checks import check_tenant
from .tenants.storage import check_storage

__all__ = ["add", "count_new", "new_rows"]

HASHES = "rows.hash"
HASH_BYTES = 16
"""Bytes of a row's hash in that file."""


def add(path: Path, *, name: str, tenant: str = "default", on_event: Handler = lambda _event: None) -> dict[str, Any]:
    """Add a file to the installation as the next version of a name; known content keeps its version.

    Args:
        path: A dataset file; a folder or a pattern becomes one ``.jsonl`` file of all its rows.
        name: Name of the dataset.
        tenant: Tenant of the dataset.
        on_event: Called with each event of the reading process.

    Returns:
        ``name``, ``version``, ``sha256``, ``rows``, ``size_bytes``, ``uri``, and ``new``: False for a known version.

    Raises:
        DataError: The file is missing, or has bad lines; each is named.
        SettingsError: The name, or that of the tenant, has a wrong form.
        TenantLimitError: The tenant has no room for it.
    """
    settings, tenant = get_settings(), check_tenant_name(tenant)
    datasets.check_name(name)
    with one_file(str(path), settings.scratch) as file:
        return _add(settings, file, name, tenant, on_event)


def _add(settings: Settings, path: Path, name: str, tenant: str, on_event: Handler) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"the dataset {path} is no file here.", hint="Give the path of a data file.")
    artifacts = Artifacts(settings.artifacts)
    with indexed(settings, path, on_event) as (found, hashes):
        with get_database().transaction(Scope.of(tenant)) as session:
            check_tenant(session, tenant, settings)
            check_room(session, tenant, found["sha256"], found["size_bytes"])
        sha256, uri = artifacts.import_dataset(path, settings.prepare_file_bytes)
        if sha256 != found["sha256"]:
            raise DataError(f"{path} changed while it was read.", hint="Add it again when nobody writes to it.")
        artifacts.put_file(hashes, _beside(uri))
    with get_database().transaction(Scope.of(tenant)) as session:
        check_tenant(session, tenant, settings)
        check_room(session, tenant, sha256, found["size_bytes"])
        before = {row["sha256"] for row in datasets.listed(session, tenant=tenant, name=name)}
        facts: dict[str, Any] = {"sha256": sha256, "uri": uri, "size_bytes": found["size_bytes"], "rows": found["rows"]}
        made = datasets.register(session, tenant=tenant, name=name, file_name=path.name, **facts)
        after = {"sha256": sha256, "version": made.version, "rows": facts["rows"]}
        record_audit(session, current_actor(), "dataset.add", name, None, after, tenant=tenant)
        return {**facts, "name": name, "version": made.version, "new": sha256 not in before}


def check_room(session: Session, tenant: str, sha256: str, size_bytes: int) -> None:
    """Check that a tenant may store a dataset's content; one that it has already needs no room.

    Raises:
        TenantLimitError: It may not.
    """
    if datasets.of_content(session, tenant, sha256) is None:
        check_storage(session, tenant, size_bytes)


def new_rows(reference: str, since: int | None, *, tenant: str = "default") -> Iterator[dict[str, Any]]:
    """Yield the rows of a version whose content an earlier version lacks; all rows unless ``since`` is given.

    Args:
        reference: ``NAME``, the newest version, or ``NAME@VERSION``.
        since: Number of the earlier version.
        tenant: Tenant of the dataset.

    Raises:
        NotFoundError: There is no such dataset or version.
    """
    from ..tuning.rows import row_hashes  # noqa: PLC0415  (the readers of all containers; only this needs them)

    settings = get_settings()
    artifacts = Artifacts(settings.artifacts)
    with get_database().session(Scope.of(tenant)) as session:
        wanted = datasets.find(session, tenant, reference)
        known = datasets.find(session, tenant, f"{wanted.name}@{since}") if since else None
    before = _hashes(settings, artifacts, known) if known else b""
    with _local(artifacts, wanted.uri) as copy:
        yield from row_hashes.new_rows(copy, before)


def count_new(reference: str, since: str, *, tenant: str = "default") -> int:
    """Count the rows of a version that another version lacks; repeated rows count once, and no row is read.

    Raises:
        NotFoundError: There is no such dataset or version.
    """
    settings = get_settings()
    artifacts = Artifacts(settings.artifacts)
    with get_database().session(Scope.of(tenant)) as session:
        wanted, known = (datasets.find(session, tenant, name) for name in (reference, since))
    before, after = (set(_each(_hashes(settings, artifacts, version))) for version in (known, wanted))
    return len(after - before)


def _each(hashes: bytes) -> Iterator[bytes]:
    return (hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES))


def _hashes(settings: Settings, artifacts: Artifacts, dataset: Dataset) -> bytes:
    """Read a version's row hashes; make them where the version came into the installation by a submit."""
    uri = _beside(dataset.uri)
    if not artifacts.exists(uri):
        with _local(artifacts, dataset.uri) as copy, indexed(settings, copy) as (_, hashes):
            artifacts.put_file(hashes, uri)
    return artifacts.read_bytes(uri)


@contextmanager
def indexed(
    settings: Settings, path: Path, on_event: Handler = lambda _event: None, *, examples: bool = False
) -> Generator[tuple[dict[str, Any], Path]]:
    """Read a file in a process of its own, within limits; yield its facts and a temporary file of its row hashes.

    Args:
        settings: The installation's settings.
        path: The file.
        on_event: Receives the progress.
        examples: Whether each row must be an example that can be trained on.

    Raises:
        DataError: The file has bad lines, or no rows; each kind of bad line is named.
        CeloraError: The process failed.
    """
    with tempfile.TemporaryDirectory(prefix="celora-index-") as scratch:
        hashes = Path(scratch) / HASHES
        request = IndexRequest(
            job="index",
            attempt=1,
            cache_dir=str(settings.cache),
            dataset=str(path.absolute()),
            out_file=str(hashes),
            examples=examples,
            limits=prepare_limits(settings),
        )
        try:
            yield run_once(request, on_event, log=Path(scratch) / "log", environment={}), hashes
        except TrainerError as error:
            raise of_code(error.error["code"])(error.message, hint=error.hint) from None


def _beside(uri: str) -> str:
    return f"{uri.rsplit('/', 1)[0]}/{HASHES}"


@contextmanager
def _local(artifacts: Artifacts, uri: str) -> Generator[Path]:
    """Yield an artifact as a local file under its own name, fetched where the root is remote."""
    there = artifacts.local_path(uri)
    if there is not None:
        yield there
        return
    with tempfile.TemporaryDirectory(prefix="celora-dataset-") as scratch:
        copy = Path(scratch) / uri.rsplit("/", 1)[1]
        artifacts.get_file(uri, copy)
        yield copy
