"""What a person or a program does with datasets: add a file under a name, and ask what is new in a version.

No task of Celery's: the file lies where the caller is. It is copied into the installation by its content first and then
read, in a trainer process within limits, so that what was checked is what the jobs will see.
"""

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..models import datasets
from ..models.database import get_database
from ..models.registry import register_dataset
from ..models.tables import Dataset
from ..settings.errors import DataError, of_code
from ..settings.settings import Settings, get_settings
from ..storage.artifacts import Artifacts
from ..tuning.protocol import IndexRequest
from ..workers.limits import prepare_limits
from ..workers.supervisor import Handler, TrainerError, run_once

HASHES = "rows.hash"
HASH_BYTES = 16
"""Of a row, in that file."""


def add(path: Path, *, name: str, tenant: str = "default", on_event: Handler = lambda _event: None) -> dict[str, Any]:
    """Add a file to the installation as the next version of a name; the same content is the version it was.

    Args:
        path: A dataset file.
        name: Of the dataset.
        tenant: Whose it is.
        on_event: Told of the reading's progress.

    Returns:
        ``name``, ``version``, ``sha256``, ``rows``, ``size_bytes``, ``uri``, and ``new``: False for a known version.

    Raises:
        DataError: The file is missing, or has bad lines; each is named.
        SettingsError: The name can't be one.
    """
    settings = get_settings()
    datasets.check_name(name)
    if not path.is_file():
        raise DataError(f"the dataset {path} is no file here.", hint="Give the path of a data file.")
    artifacts = Artifacts(settings.artifacts)
    with _indexed(settings, path, on_event) as (found, hashes):
        sha256, uri = artifacts.import_dataset(path)
        if sha256 != found["sha256"]:
            raise DataError(f"{path} changed while it was read.", hint="Add it again when nobody writes to it.")
        artifacts.put_file(hashes, _beside(uri))
    with get_database().transaction() as session:
        before = {row["sha256"] for row in datasets.listed(session, tenant=tenant, name=name)}
        facts: dict[str, Any] = {"sha256": sha256, "uri": uri, "size_bytes": found["size_bytes"], "rows": found["rows"]}
        made = register_dataset(session, tenant=tenant, name=name, **facts)
        return {**facts, "name": name, "version": made.version, "new": sha256 not in before}


def new_rows(reference: str, since: int | None, *, tenant: str = "default") -> Iterator[dict[str, Any]]:
    """The rows of a version that an earlier one did not have, by what they hold; all of them unless ``since`` is given.

    Args:
        reference: ``NAME``, the newest version, or ``NAME@VERSION``.
        since: The earlier version's number.
        tenant: Whose the dataset is.

    Raises:
        NotFoundError: There is no such dataset or version.
    """
    from ..tuning import hashes  # noqa: PLC0415  (the readers of all containers; only this needs them)

    settings = get_settings()
    artifacts = Artifacts(settings.artifacts)
    with get_database().session() as session:
        wanted = datasets.find(session, tenant, reference)
        known = datasets.find(session, tenant, f"{wanted.name}@{since}") if since else None
    before = _hashes(settings, artifacts, known) if known else b""
    with _local(artifacts, wanted.uri) as copy:
        yield from hashes.new_rows(copy, before)


def count_new(reference: str, since: str, *, tenant: str = "default") -> int:
    """How many rows a version has that another one has not; repeated ones count once, and no row is read.

    Raises:
        NotFoundError: There is no such dataset or version.
    """
    settings = get_settings()
    artifacts = Artifacts(settings.artifacts)
    with get_database().session() as session:
        wanted, known = (datasets.find(session, tenant, name) for name in (reference, since))
    before, after = (set(_each(_hashes(settings, artifacts, version))) for version in (known, wanted))
    return len(after - before)


def _each(hashes: bytes) -> Iterator[bytes]:
    return (hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES))


def _hashes(settings: Settings, artifacts: Artifacts, dataset: Dataset) -> bytes:
    """A version's row hashes; made now where the version came into the installation by a submit."""
    uri = _beside(dataset.uri)
    if not artifacts.exists(uri):
        with _local(artifacts, dataset.uri) as copy, _indexed(settings, copy) as (_, hashes):
            artifacts.put_file(hashes, uri)
    return artifacts.read_bytes(uri)


@contextmanager
def _indexed(
    settings: Settings, path: Path, on_event: Handler = lambda _event: None
) -> Generator[tuple[dict[str, Any], Path]]:
    """What a process of its own finds in a file, and a file of its row hashes that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="celora-index-") as scratch:
        hashes = Path(scratch) / HASHES
        request = IndexRequest(
            job="index",
            attempt=1,
            cache_dir=str(settings.cache),
            dataset=str(path.absolute()),
            out_file=str(hashes),
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
    """An artifact as a local file under its own name; fetched where the root is remote."""
    there = artifacts.local_path(uri)
    if there is not None:
        yield there
        return
    with tempfile.TemporaryDirectory(prefix="celora-dataset-") as scratch:
        copy = Path(scratch) / uri.rsplit("/", 1)[1]
        artifacts.get_file(uri, copy)
        yield copy
