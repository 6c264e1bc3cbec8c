"""Guards and upserts of rows, in both databases."""

from celora.models.rows import Claim, lock_if, owned, upsert_insert
from celora.models.scope.scope import Scope
from celora.models.states import Status
from celora.models.tables import Job, Tenant

WORKER, OTHER = "cpu-0@here", "cpu-1@there"


def held(record, claim):
    with record.database.transaction(Scope.everything) as session:
        return lock_if(session, claim.job_id, *owned(claim)) is not None


def test_a_claim_owns_the_running_attempt_of_its_worker_alone(record):
    record.bring(Status.RUNNING)
    assert held(record, Claim("job", 1, WORKER))
    assert not held(record, Claim("job", 2, WORKER))
    assert not held(record, Claim("job", 1, OTHER))
    assert not held(record, Claim("nothing", 1, WORKER))


def test_a_claim_owns_nothing_that_does_not_run(record):
    record.bring(Status.QUEUED)
    assert not held(record, Claim("job", 1, WORKER))


def test_a_locked_row_is_the_present_one_and_notes_the_time(record):
    record.new()
    before = record.job()
    with record.database.transaction(Scope.everything) as session:
        row = lock_if(session, "job", Job.status == Status.PENDING)
        assert row.updated_at > before.updated_at
        assert lock_if(session, "job", Job.status == Status.RUNNING) is None


def test_an_upsert_writes_once(database):
    for _ in range(2):
        with database.transaction(Scope.everything) as session:
            insert = upsert_insert(session, Tenant).values(name="acme", created_at=database.now(session))
            session.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
    with database.session(Scope.everything) as session:
        assert session.query(Tenant).count() == 1
