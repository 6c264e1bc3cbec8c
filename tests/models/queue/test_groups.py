"""Counts of waiting jobs: every job that waits for a slot once, none that waits for something else."""

from collections import Counter
from datetime import timedelta

from sqlalchemy import select, update

from celora.models.database import now
from celora.models.queue import groups
from celora.models.scope.scope import Scope
from celora.models.tables import Hold, Job


def read(record, reference=None, aged_s=3600.0):
    with record.database.session(Scope.everything) as session:
        at = now(session)
        return groups.count_groups(session, at, aged_before=at - timedelta(seconds=aged_s), reference=reference)


def test_jobs_are_counted_by_lane_priority_and_age(record, monkeypatch):
    for number in range(3):
        record.new(f"a-{number}", tenant="acme")
    record.new("high", tenant="acme", priority=7)
    record.new("theirs", tenant="rival")
    record.new("paused", tenant="acme")
    record.request_pause("paused")
    with record.database.transaction(Scope.everything) as session:
        back = now(session) - timedelta(days=2)
        session.execute(update(Job).where(Job.id == "a-0").values(created_at=back))
        session.execute(update(Job).where(Job.id == "theirs").values(limited={"code": "budget"}))
    found = {(row.tenant, row.priority, row.aged): row.jobs for row in read(record)}
    assert found == {("acme", 0, True): 1, ("acme", 0, False): 2, ("acme", 7, False): 1}
    with record.database.session(Scope.everything) as session:
        one = session.get_one(Job, "a-2")
        rows = groups.all_heads(session, now(session))
        assert sorted(row.id for row in rows) == ["a-0", "a-1", "a-2", "high"]
    older = {(row.priority, row.older): row.jobs for row in read(record, (one.created_at, one.id), 10**6)}
    assert older[0, True] == 2
    assert older[0, False] == 1
    for number, of_all in ((0, {(True, False): 1, (False, False): 3}), (1, {(True, True): 1, (False, False): 3})):
        with record.database.session(Scope.everything) as session:
            first = session.get_one(Job, f"a-{number}")
        counts = Counter()
        for row in read(record, (first.created_at, first.id)):
            counts[row.aged, row.older] += row.jobs
        assert counts == of_all
    monkeypatch.setattr(groups, "EXACT", 3)
    with record.database.session(Scope.everything) as session:
        assert groups.all_heads(session, now(session)) is None


def test_a_group_has_the_average_need_and_estimate_of_its_jobs_or_of_some_of_them(record):
    with record.database.transaction(Scope.everything) as session:
        month = now(session).strftime("%Y-%m")
    for number in range(1, 30):
        record.new(f"many-{number}", tenant="acme", gpu="auto")
        record.new(f"named-{number}", tenant="acme", gpu="h100")
    record.new("alone", tenant="rival", gpu="auto")
    record.new("unknown", tenant="third", gpu="auto")
    with record.database.transaction(Scope.everything) as session:
        for job in session.scalars(select(Job).where(Job.tenant != "third")):
            job.memory_bytes = 7 * 2**30 if job.id == "alone" else int(job.id.partition("-")[2])
            wanted_ms = 7_000 if job.id == "alone" else job.memory_bytes * 1_000
            session.add(Hold(job_id=job.id, month=month, basis="bytes", wanted_ms=wanted_ms, wanted_micros=0,
                             updated_at=job.updated_at))  # fmt: skip
    found = {(row.tenant, row.gpu): row for row in read(record)}
    assert (found["rival", "auto"].memory_bytes, found["rival", "auto"].hold_ms) == (7 * 2**30, 7_000)
    assert (found["third", "auto"].memory_bytes, found["third", "auto"].hold_ms) == (0, None)
    many, named = found["acme", "auto"], found["acme", "h100"]
    assert (many.jobs, named.jobs, named.memory_bytes) == (29, 29, None)
    assert 5 < many.memory_bytes < 25
    assert 5_000 < named.hold_ms < 25_000
