"""The archive of an adapter: a tar file that tar reads, of a job's own tenant alone."""

import io
import tarfile

import pytest

from celora.errors import RequestError
from celora.models.scope.scope import Scope
from celora.models.tables import Adapter
from celora.services.native.adapter_archive import archive
from celora.settings.settings import get_settings


def test_a_tar_file_with_the_published_folder(submit, record, artifacts, write_folder):
    submit().complete()
    uri = artifacts.uri("jobs", "job-1", "attempt-1", "published")
    write_folder(uri, **{"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 1500})
    with record.transaction(Scope.everything) as session:
        session.get_one(Adapter, "job-1").uri = uri
    name, parts = archive("team-a", "job-1", get_settings())
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts)), mode="r:") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    assert found[f"{name}/adapter_config.json"] == b"{}"
    assert found[f"{name}/adapter_model.safetensors"] == b"x" * 1500


@pytest.mark.parametrize(("tenant", "job_id"), [("team-b", "job-1"), ("team-a", "job-2"), ("team-a", "none")])
def test_a_job_without_an_adapter_of_this_tenant_has_no_archive(submit, tenant, job_id):
    submit().complete()
    submit("job-2")
    with pytest.raises(RequestError) as caught:
        archive(tenant, job_id, get_settings())
    assert caught.value.status == 404
