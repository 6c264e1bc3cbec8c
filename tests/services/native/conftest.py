"""A record in a home of its own with a job that has trained."""

import pytest
from moved_job import Moved

from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import write_manifest


@pytest.fixture
def submit(record):
    """Makes a job of a tenant, as the command line does."""

    def make(job_id="job-1", tenant="team-a"):
        spec = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": tenant}
        with record.transaction(Scope.everything) as session:
            accept.submit(session, job_id=job_id, spec=parse_spec(spec))
        return Moved(record, job_id)

    return make


@pytest.fixture
def artifacts(record):
    return Artifacts(get_settings().artifacts)


@pytest.fixture
def write_folder(artifacts, tmp_path):
    """Writes a folder of files into the artifacts."""

    def write(uri, **files):
        folder = tmp_path / "folder"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        write_manifest(folder)
        artifacts.put_folder(folder, uri)

    return write
