"""Limits of a tenant over a job's whole life: a storm that leaves the books exact, and a top-up in mid-training."""

import random
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from celora.models.database import Database
from celora.models.jobs import requests, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import LIVE, Reason, Ruling, Status
from celora.models.tables import Charge, Hold, Job, LedgerMonth
from celora.models.tenants import ledger
from celora.models.tenants.limits import set_limits
from celora.services.acceptance import write_job
from celora.services.tenants.admission import apply_limits
from celora.settings.settings import get_settings

SPEC = {"base_model": "tiny", "dataset": "/nowhere/rows.jsonl", "gpu": "h100"}
TENANTS = ("team-a", "team-b")
PRICE = 3.5


class KilledError(Exception):
    """The process of an actor died in the middle of its transaction."""


class Actor:
    """A worker, a person and a scheduling round in one: what it does next is drawn from its own random numbers."""

    def __init__(self, database, seed, jobs):
        self.database, self.random, self.jobs = database, random.Random(seed), jobs  # noqa: S311  (no secret)
        self.name, self.failed = f"worker-{seed}", []

    def run(self, actions):
        try:
            for _ in range(actions):
                self.act()
        except Exception as error:
            self.failed.append(error)
            raise

    def act(self):
        verbs = (self.round, self.round, self.work, self.work, self.work, self.work, self.ask, self.limit)
        with suppress(KilledError):
            self.random.choice(verbs)()

    def change(self, verb, *about, **options):
        """Change the record in a transaction that one time in ten is killed before its commit."""
        with self.database.transaction(Scope.everything) as session:
            answer = verb(session, *about, **options)
            if self.random.random() < 0.1:
                raise KilledError
            return answer

    def round(self):
        apply_limits(self.database, get_settings())
        for job_id, attempt, stage in self.find(Status.PENDING):
            self.change(transitions.send, job_id, attempt, stage, queue="q", gpu_type="h100")

    def work(self):
        for job_id, attempt, stage in self.find(Status.QUEUED):
            self.change(transitions.claim, job_id, attempt, stage, worker_id="w", lease_s=90)
        for job_id, attempt, stage in self.find(Status.RUNNING):
            self.change(self.pass_time, job_id)
            claim, error = Claim(job_id, attempt, "w", PRICE), {"code": "device", "message": "Xid 79"}
            endings = [
                (transitions.renew, claim, 90),
                (transitions.renew, claim, 90),
                (transitions.advance, claim, stage, {}),
                (transitions.advance, claim, stage, {}),
                (transitions.advance, claim, stage, {}),
                (transitions.release, claim, Reason.PREEMPTED),
                (transitions.try_again, claim, error, Ruling(again=True)),
                (transitions.fail, claim, error),
                (transitions.expire, None, 3),
            ]
            self.change(*self.random.choice(endings))

    def ask(self):
        job_id = self.random.choice(self.jobs)
        verb = self.random.choice((requests.request_pause, requests.resume, requests.resume, requests.request_cancel))
        if verb is not requests.request_cancel or self.random.random() < 1 / 8:
            self.change(verb, job_id)

    def limit(self):
        changes = {"gpu_minutes": self.random.choice((None, None, 60)), "budget": self.random.choice((None, None, 5))}
        self.change(set_limits, self.random.choice(TENANTS), changes)

    def find(self, status):
        with self.database.session(Scope.everything) as session:
            found = select(Job.id, Job.attempt, Job.stage).where(Job.status == status)
            rows = list(session.execute(found.order_by(Job.id)).all())
        return self.random.sample(rows, min(4, len(rows)))

    def pass_time(self, session, job_id):
        """Let a stage have begun up to ten minutes earlier, and in one case of eight let its lease run out."""
        job = session.get(Job, job_id)
        if job.status is Status.RUNNING and job.claimed_at is not None:
            job.claimed_at -= timedelta(seconds=self.random.uniform(0, 600))
            if self.random.random() < 1 / 16:
                job.lease_until = job.claimed_at + timedelta(seconds=1)


@pytest.mark.slow
def test_after_a_storm_with_kills_no_hold_is_left_and_the_ledger_is_the_sum_of_the_attempts(database, home):
    jobs = [f"job-{number}" for number in range(16)]
    for number, job_id in enumerate(jobs):
        with database.transaction(Scope.everything) as session:
            write_job(session, get_settings(), job_id, parse_spec({**SPEC, "tenant": TENANTS[number % 2]}), None)
    actors = [Actor(database, number, jobs) for number in range(3)]
    threads = [threading.Thread(target=actor.run, args=(40,)) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert [actor.failed for actor in actors] == [[], [], []]
    check_books(database)
    with database.session(Scope.everything) as session:
        live = session.execute(select(Job.id, Job.status, Job.attempt).where(Job.status.in_(LIVE))).all()
    for job_id, status, attempt in live:
        with database.transaction(Scope.everything) as session:
            requests.request_cancel(session, job_id)
            if status is Status.RUNNING:
                assert transitions.finish_cancel(session, Claim(job_id, attempt, "w", PRICE))
    with database.session(Scope.everything) as session:
        assert session.scalar(select(func.count()).select_from(Hold)) == 0
        assert session.scalar(select(func.sum(LedgerMonth.held_ms))) == 0
        assert session.scalar(select(func.sum(LedgerMonth.held_micros))) == 0
        assert session.scalar(select(func.sum(LedgerMonth.spent_ms))) > 0
    check_books(database)


def check_books(database):
    """Each month is the sum of its charges, its holds are its jobs', and each job is charged what it counted itself."""
    with database.session(Scope.everything) as session:
        for month in session.scalars(select(LedgerMonth)).all():
            charges = select(func.sum(Charge.device_ms), func.sum(Charge.cost_micros)).join(
                Job, Job.id == Charge.job_id
            )
            holds = select(func.sum(Hold.held_ms), func.sum(Hold.held_micros)).join(Job, Job.id == Hold.job_id)
            charged = session.execute(charges.where(Job.tenant == month.tenant, Charge.month == month.month)).one()
            held = session.execute(holds.where(Job.tenant == month.tenant, Hold.month == month.month)).one()
            assert (month.spent_ms, month.spent_micros) == tuple(map(int, (charged[0] or 0, charged[1] or 0)))
            assert (month.held_ms, month.held_micros) == tuple(map(int, (held[0] or 0, held[1] or 0)))
        for job in session.scalars(select(Job)).all():
            charged = session.scalar(select(func.sum(Charge.device_ms)).where(Charge.job_id == job.id)) or 0
            assert charged == round(job.gpu_seconds * 1000)


def sums(session, month, table, *columns):
    """The sums of two columns over the rows of a tenant's jobs in a month."""
    added = select(*map(func.sum, columns)).join(Job, Job.id == table.job_id)
    found = session.execute(added.where(Job.tenant == month.tenant, table.month == month.month)).one()
    return tuple(int(one or 0) for one in found)


@pytest.mark.slow
def test_a_job_that_reaches_its_tenants_limit_in_training_completes_after_the_top_up_equal_to_the_bit(running, spec):
    long = {**spec, "max_steps": 500, "eval_steps": 500, "eval_max_rows": 0}
    plain = running.send(long)
    limited = running.send({**long, "tenant": "team-a"})
    running.wait(limited.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 3)
    database = Database(running.settings.database)
    try:
        with database.transaction(Scope.everything) as session:
            job, hold = session.get_one(Job, limited.id), session.get_one(Hold, limited.id)
            ledger.release(session, job)  # as if the estimate had been far too low
            assert hold.held_ms == 0
            set_limits(session, "team-a", {"gpu_minutes": 0.001})
        running.wait(limited.id, lambda job: job["status"] == "pending" and "device minutes" in job["wait_reason"])
        assert "limit_reached" in [event["kind"] for event in running.events(limited.id)]
        running.run("celora", "tenant", "set", "team-a", "--gpu-minutes", "none")
        weights = [weights_of(running, database, result) for result in (plain, limited)]
        kinds = [event["kind"] for event in running.events(limited.id)]
        assert weights[0] == weights[1]
        assert {"released", "unpaused", "resumed"} <= set(kinds)
        assert running.job(limited.id)["attempt"] == 2
        check_books(database)
        with database.session(Scope.everything) as session:
            assert session.get(Hold, limited.id) is None
    finally:
        database.dispose()


def weights_of(running, database, result):
    running.wait(result.id, lambda job: job["status"] == "completed")
    with database.session(Scope.everything) as session:
        folder = Path(session.get_one(Job, result.id).adapter_uri.removeprefix("file://"))
    return (folder / "adapter_model.safetensors").read_bytes()
