"""A tenant is deleted with everything that it owns, and nothing of another tenant's changes."""

import threading

import pytest
from sqlalchemy import func, select, update
from two_tenants import LIMITED, OURS, THEIRS, owner_of, rows_of

from celora.errors import AccessError, NotFoundError, SettingsError, UnavailableError
from celora.models.database import get_database
from celora.models.jobs import transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import AuditEntry, Dataset, File, Job
from celora.models.tenants.limits import add_tenant
from celora.services import jobs
from celora.services import tenant_deletion as deletion
from celora.services.tenants import keys, secrets
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts


@pytest.fixture
def two(database, home, monkeypatch):
    """Two tenants with a row of each table, files of their jobs, and one content that both have."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    monkeypatch.setattr(jobs, "request_tick", lambda: None)
    monkeypatch.setattr(jobs.messages, "attempt", lambda *_, **__: True)
    monkeypatch.setattr(jobs.results, "announce", lambda *_, **__: None)
    artifacts = Artifacts(get_settings().artifacts)
    (home / "both.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    shared = artifacts.import_dataset(home / "both.jsonl")
    for tenant in (OURS, THEIRS):
        (home / "own.jsonl").write_text(f'{{"prompt": "{tenant}", "completion": "b"}}\n', encoding="utf-8")
        own = artifacts.import_dataset(home / "own.jsonl")
        artifacts.put_file(home / "own.jsonl", artifacts.uri("jobs", f"job-{tenant}", "attempt-1", "adapter.bin"))
        secrets.set_secret("HF_TOKEN", f"hf_of_{tenant}", tenant=tenant)
        with database.session(Scope.everything) as session:
            for row in rows_of(tenant):
                if isinstance(row, Dataset | File):
                    row.sha256, row.uri = shared if isinstance(row, Dataset) else own
                session.merge(row)
                session.flush()
    return get_database()


def rows_by_table(database, tenant):
    """The tenant's rows of each limited table."""
    with database.session(Scope.everything) as session:
        return {
            table.__name__: sorted(
                str([getattr(row, column.key) for column in table.__mapper__.column_attrs])
                for row in session.scalars(select(table))
                if owner_of(row) == tenant
            )
            for table in LIMITED
        }


def stored():
    artifacts = Artifacts(get_settings().artifacts)
    return {kind: artifacts.names(artifacts.uri(kind)) for kind in ("jobs", "datasets")}


def uri_of(database, table, tenant):
    with database.session(Scope.everything) as session:
        return session.scalars(select(table.uri).where(table.tenant == tenant)).one()


def test_everything_of_the_tenant_goes_and_nothing_of_the_other(two):
    theirs, shared, own = rows_by_table(two, THEIRS), uri_of(two, Dataset, OURS), uri_of(two, File, OURS)
    owned = deletion.holdings(OURS)
    assert (owned.rows["job"], owned.rows["dataset"], owned.unfinished) == (1, 1, 0)
    assert owned.secrets == ["HF_TOKEN"]
    done = deletion.delete_tenant(OURS)
    assert rows_by_table(two, THEIRS) == theirs
    assert {name for name, rows in rows_by_table(two, OURS).items() if rows} == {"AuditEntry"}
    assert stored()["jobs"] == [f"job-{THEIRS}"]
    artifacts = Artifacts(get_settings().artifacts)
    assert (artifacts.exists(shared), artifacts.exists(own)) == (True, False)
    assert (done.contents, done.shared, done.cancelled) == (1, 1, 0)
    assert secrets.list_secrets(tenant=OURS) == []
    assert secrets.list_secrets(tenant=THEIRS) == ["HF_TOKEN"]
    with two.session(Scope.everything) as session:
        last = session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc()).limit(1)).one()
    assert (last.action, last.object, last.tenant, last.before["rows"]["job"]) == ("tenant.delete", OURS, OURS, 1)
    deletion.delete_tenant(THEIRS)
    assert stored() == {"jobs": [], "datasets": []}


def test_the_content_that_an_unfinished_job_reads_stays(two):
    own = uri_of(two, File, OURS)
    with two.transaction(Scope.everything) as session:
        session.get_one(Job, f"job-{THEIRS}").status = Status.PENDING
        session.get_one(Job, f"job-{THEIRS}").spec = {"dataset": "x", "gate": {"must_pass": own}}
    assert deletion.delete_tenant(OURS).shared == 2
    assert Artifacts(get_settings().artifacts).exists(own)


def test_a_waiting_job_is_cancelled_and_a_running_one_is_waited_for(two):
    with two.transaction(Scope.everything) as session:
        session.execute(update(Job).values(status=Status.PENDING, stage=Stage.PREPARE, request={"id": "x"}))
    with two.transaction(Scope.everything) as session:
        assert transitions.send(session, f"job-{OURS}", 1, Stage.PREPARE, queue="prep")
        assert transitions.claim(session, f"job-{OURS}", 1, Stage.PREPARE, worker_id="w", lease_s=900)
    with pytest.raises(UnavailableError, match="1 jobs still run"):
        deletion.delete_tenant(OURS, wait_s=0)
    assert rows_by_table(two, OURS)["Job"]
    assert rows_by_table(two, OURS)["Schedule"] == []

    def end():
        with two.transaction(Scope.everything) as session:
            assert transitions.finish_cancel(session, Claim(f"job-{OURS}", 1, "w"))

    worker = threading.Timer(0.2, end)
    worker.start()
    assert deletion.delete_tenant(OURS).cancelled == 1
    worker.join()
    with two.session(Scope.everything) as session:
        assert session.scalar(select(func.count()).select_from(Job).where(Job.tenant == OURS)) == 0
        assert session.get_one(Job, f"job-{THEIRS}").status is Status.PENDING


def test_the_keys_of_a_deleted_tenant_are_no_keys_any_more(two):
    made = keys.create_key(OURS)
    deletion.delete_tenant(OURS)
    with pytest.raises(AccessError):
        keys.authenticate(made.key)


def test_a_deletion_that_broke_off_goes_on(two, monkeypatch):
    def dies(*_args, **_options):
        raise RuntimeError("killed")

    with monkeypatch.context() as broken:
        broken.setattr(deletion.rows, "delete_rows", dies)
        with pytest.raises(RuntimeError):
            deletion.delete_tenant(OURS)
    assert rows_by_table(two, OURS)["Job"]
    assert deletion.delete_tenant(OURS).rows["job"] == 1
    assert stored()["jobs"] == [f"job-{THEIRS}"]


def test_nobody_and_the_installations_own_tenant_are_refused(two):
    with pytest.raises(NotFoundError, match="no tenant"):
        deletion.holdings("nobody")
    with two.transaction(Scope.everything) as session:
        add_tenant(session, "default")
    for verb in (deletion.holdings, deletion.delete_tenant):
        with pytest.raises(SettingsError, match="installation's own"):
            verb("default")
