"""The sweep of files: contents that nothing needs go, every other one stays."""

from datetime import timedelta

from records import SPEC

from celora.models.jobs import accept, requests
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import File
from celora.services.openai import files
from celora.services.openai.file_sweep import sweep_files
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts


def age(database, file_id):
    with database.transaction(Scope.everything) as session:
        session.get_one(File, file_id).deleted_at -= timedelta(hours=2)


def there(file):
    return Artifacts(get_settings().artifacts).exists(file.uri)


def test_a_deleted_content_goes_after_a_while(file, installation):
    made = file()
    files.delete("default", made.id)
    assert sweep_files(installation, get_settings()) == 0
    assert there(made)
    age(installation, made.id)
    assert sweep_files(installation, get_settings()) == 1
    assert not there(made)


def test_another_tenants_file_keeps_the_content(file, installation):
    made, other = file(), file(tenant="team-b")
    files.delete("default", made.id)
    age(installation, made.id)
    assert sweep_files(installation, get_settings()) == 0
    assert there(other)


def test_an_unfinished_job_keeps_the_content_to_its_end(file, installation):
    made = file()
    with installation.transaction(Scope.everything) as session:
        accept.submit(session, job_id="job", spec=parse_spec({**SPEC, "dataset": made.uri}))
    files.delete("default", made.id)
    age(installation, made.id)
    assert sweep_files(installation, get_settings()) == 0
    assert there(made)
    with installation.transaction(Scope.everything) as session:
        requests.request_cancel(session, "job")
    assert sweep_files(installation, get_settings()) == 1
    assert not there(made)
