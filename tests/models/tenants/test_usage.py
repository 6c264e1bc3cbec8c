"""The use of a month as people read it: whole, by user and by base model, and the parts add up."""

import pytest

from celora.models.database import now
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job
from celora.models.tenants import ledger
from celora.models.tenants.usage import usage
from celora.models.tenants.use import Use, month_of

JOBS = [("one", "acme", "ada", "tiny", 10), ("two", "acme", "ada", "large", 20), ("three", "acme", "bob", "tiny", 40),
        ("four", "other", "ada", "tiny", 80)]  # fmt: skip


@pytest.fixture
def month(database):
    """The present month, in which four jobs of two tenants used devices."""
    with database.transaction(Scope.everything) as session:
        for job_id, tenant, user, base, seconds in JOBS:
            fields = {"base_model": base, "dataset": "/d.jsonl", "tenant": tenant, "user": user}
            accept.submit(session, job_id=job_id, spec=parse_spec(fields))
            job = session.get_one(Job, job_id)
            job.gpu_seconds, job.cost = seconds, seconds / 10
            ledger.settle(session, job)
        return month_of(now(session))


def read(database, scope=Scope.everything, **options):
    with database.session(scope) as session:
        return usage(session, **options)


def test_a_month_is_a_row_of_the_ledger(database, month):
    ours, theirs = read(database)
    assert (ours.tenant, ours.month, ours.spent, ours.held) == ("acme", month, Use(70_000, 7_000_000), Use())
    assert (theirs.tenant, theirs.spent.minutes, theirs.spent.cost) == ("other", 80 / 60, 8.0)
    assert read(database, month="2001-01") == []


@pytest.mark.parametrize(
    ("by", "parts"),
    [
        (["user"], {("bob", None): 40_000, ("ada", None): 30_000}),
        (["model"], {(None, "tiny"): 50_000, (None, "large"): 20_000}),
        (["model", "user"], {("bob", "tiny"): 40_000, ("ada", "large"): 20_000, ("ada", "tiny"): 10_000}),
    ],
)
def test_the_parts_add_up_to_the_whole(database, month, by, parts):
    found = read(database, tenant="acme", month=month, by=by)
    assert {(row.user, row.model): row.spent.device_ms for row in found} == parts
    assert sum((row.spent for row in found), Use()) == read(database, tenant="acme")[0].spent


def test_a_part_names_its_number_of_jobs(database, month):
    assert {row.user: row.jobs for row in read(database, tenant="acme", by=["user"])} == {"ada": 2, "bob": 1}


def test_a_tenant_reads_its_own_use_alone(database, month):
    for by in ([], ["user"], ["model"]):
        assert {row.tenant for row in read(database, Scope.of("acme"), by=by)} == {"acme"}
