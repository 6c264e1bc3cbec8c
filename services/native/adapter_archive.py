"""Packs the published folder of a job's adapter as a tar archive while it is sent; no copy is made."""

import tarfile
from collections.abc import Generator

from ...errors import RequestError
from ...models.database import get_database
from ...models.openai import job_requests
from ...models.scope.scope import Scope
from ...models.tables import Adapter
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts

END = b"\0" * (2 * tarfile.BLOCKSIZE)


def archive(tenant: str, job_id: str, settings: Settings) -> tuple[str, Generator[bytes]]:
    """Return the name of a job's adapter and the parts of its archive.

    Raises:
        RequestError: There is no such job, or it has no adapter (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        job_requests.find_job(session, tenant, job_id)
        adapter = session.get(Adapter, job_id)
        if adapter is None or adapter.deleted_at is not None:
            raise RequestError("the job has no adapter.", reason="not_ready", status=404)
        name, uri, at_s = adapter.name, adapter.uri, adapter.created_at.timestamp()
    artifacts = Artifacts(settings.artifacts)
    files = artifacts.list_files(uri)
    if not files:
        raise RequestError("the files of the adapter are gone.", reason="not_ready", status=404)
    return name, _parts(artifacts, uri, files, name=name, at_s=at_s)


def _parts(artifacts: Artifacts, uri: str, files: list[str], *, name: str, at_s: float) -> Generator[bytes]:
    for path in files:
        head = tarfile.TarInfo(f"{name}/{path}")
        head.size, head.mtime, head.mode = artifacts.size_bytes(f"{uri}/{path}"), int(at_s), 0o644
        yield head.tobuf(tarfile.PAX_FORMAT)
        yield from artifacts.read_parts(f"{uri}/{path}")
        yield b"\0" * (-head.size % tarfile.BLOCKSIZE)
    yield END
