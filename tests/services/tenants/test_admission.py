"""Admission: jobs beyond a limit wait with the numbers or are refused, and start when there is room."""

import threading

import pytest
from sqlalchemy import event, func, select

from celora.errors import SettingsError, TenantLimitError
from celora.models import workers
from celora.models.database import now
from celora.models.jobs import requests, transitions
from celora.models.queue.estimates import STAGE_START_S
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Dataset, Event, Hold, Job, LedgerMonth
from celora.models.tenants.limits import set_limits
from celora.models.tenants.use import MOST
from celora.services.acceptance import write_job
from celora.services.rounds.dispatch import decide_round
from celora.services.tenants import admission
from celora.services.tenants.admission import apply_limits, ask_for_missing
from celora.settings.settings import get_settings

STARTS_MS = round(2 * STAGE_START_S * 1000)
"""What a hold adds to the seconds of a receipt: training and evaluation each have to start."""
SPEC = {"base_model": "tiny", "dataset": "/nowhere/rows.jsonl", "tenant": "acme", "gpu": "h100"}


class Installation:
    """A record and its rounds, without workers."""

    def __init__(self, database):
        self.database = database

    def limits(self, **changes):
        with self.database.transaction(Scope.everything) as session:
            set_limits(session, "acme", changes)

    def submit(self, job_id, **fields):
        with self.database.transaction(Scope.everything) as session:
            write_job(session, get_settings(), job_id, parse_spec(SPEC | fields), None)

    def round(self):
        apply_limits(self.database, get_settings())
        with self.database.transaction(Scope.everything) as session:
            return decide_round(session, get_settings())

    def lanes(self):
        """The reasons of the lanes that no slot of a worker would end."""
        found = {why.code.value: why.facts for whys in self.round().lanes.values() for _, why in whys}
        return {code: facts for code, facts in found.items() if code != "no_worker"}

    def statements(self, work):
        """The statements of some work, by their first word."""
        made = []
        listen = lambda _conn, _cursor, words, *_: made.append(words)  # noqa: E731
        event.listen(self.database.engine, "before_cursor_execute", listen)
        try:
            work()
        finally:
            event.remove(self.database.engine, "before_cursor_execute", listen)
        return made

    def asking(self):
        with self.database.session(Scope.everything) as session:
            return set(session.scalars(select(Hold.job_id).where(Hold.asks)))

    def job(self, job_id):
        with self.database.session(Scope.everything) as session:
            return session.get(Job, job_id)

    def limited(self):
        with self.database.session(Scope.everything) as session:
            rows = session.execute(select(Job.id, Job.limited).where(Job.limited.is_not(None)))
            return {job_id: facts["code"] for job_id, facts in rows}

    def held(self):
        with self.database.session(Scope.everything) as session:
            return session.scalar(select(func.sum(LedgerMonth.held_ms)))

    def run(self, job_id, stage=Stage.PREPARE):
        with self.database.transaction(Scope.everything) as session:
            assert transitions.send(session, job_id, 1, stage, queue="q", gpu_type="h100")
            assert transitions.claim(session, job_id, 1, stage, worker_id="w", lease_s=90)

    def finish(self, job_id, stage=Stage.PREPARE, **values):
        with self.database.transaction(Scope.everything) as session:
            assert transitions.advance(session, Claim(job_id, 1, "w", 3.5), stage, values)


@pytest.fixture
def here(database, home):
    return Installation(database)


def test_without_limits_every_job_holds_its_estimate(here):
    here.submit("one")
    assert (here.held(), here.job("one").limited) == (60_000, None)


def test_fifty_parallel_submits_at_a_budget_for_ten(here):
    here.limits(gpu_minutes=10)
    failed = []

    def submit(first):
        for number in range(first, first + 10):
            try:
                here.submit(f"job-{number:02}")
            except Exception as error:  # noqa: BLE001  (a thread's error is the test's)
                failed.append(error)

    threads = [threading.Thread(target=submit, args=(first,)) for first in range(0, 50, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert failed == []
    assert (here.held(), len(here.limited()), set(here.limited().values())) == (600_000, 40, {"gpu_minutes"})
    here.round()
    assert len(here.limited()) == 40


def test_a_tenant_that_refuses_gets_the_numbers_and_no_row(here):
    here.limits(gpu_minutes=1, over="refuse")
    here.submit("one")
    with pytest.raises(TenantLimitError, match="needs about 1 device minutes; of this month's 1, 0 are used and 1"):
        here.submit("two")
    assert here.job("two") is None
    assert here.held() == 60_000


@pytest.mark.parametrize("limit", [{"budget": 0}, {"gpu_minutes": 0}, {"max_jobs": 0}, {"max_gpus": 0},
                                   {"storage_bytes": 0}])  # fmt: skip
def test_nothing_may_be_used_at_zero(here, limit):
    here.limits(**limit)
    here.submit("waits")
    assert "waits" not in [release.job_id for release in here.round().releases]
    here.limits(over="refuse")
    with pytest.raises(TenantLimitError):
        here.submit("refused")


def test_a_raised_limit_lets_what_waited_go_on_in_its_turn(here):
    here.limits(gpu_minutes=1)
    for job_id, priority in (("one", 0), ("low", -5), ("high", 5)):
        here.submit(job_id, priority=priority)
    assert set(here.limited()) == {"low", "high"}
    here.limits(gpu_minutes=2)
    here.round()
    assert set(here.limited()) == {"low"}
    here.limits(gpu_minutes=None)
    here.round()
    assert here.limited() == {}
    assert here.job("low").wait_reason == ""


def test_a_job_that_ends_makes_room(here):
    here.limits(gpu_minutes=1)
    here.submit("one")
    here.submit("two")
    with here.database.transaction(Scope.everything) as session:
        transitions.end_failed(session, session.get_one(Job, "one"), {"code": "bad_data", "message": "no"}, 0.0)
    here.round()
    assert (here.limited(), here.held()) == ({}, 60_000)


def test_after_prepare_the_receipt_is_held_instead(here):
    here.submit("one")
    here.run("one")
    row = {"name": "h100", "fits": True, "train_s": 500.0, "evaluate_s": 100.0, "price_per_hour": 3.5}
    here.finish("one", prepared={"receipt": {"estimate": {"devices": [row]}}})
    here.round()
    assert here.held() == 600_000 + STARTS_MS
    here.limits(gpu_minutes=5)
    here.round()
    assert here.limited() == {}  # what is held stays held


def test_a_job_that_would_take_for_ever_stops_no_round(here):
    here.submit("one")
    here.run("one")
    row = {"name": "h100", "fits": True, "train_s": 1e19, "evaluate_s": 1e19, "price_per_hour": 3.5}
    here.finish("one", prepared={"receipt": {"estimate": {"devices": [row]}}})
    here.submit("two", tenant="other")
    here.round()
    assert here.held() == MOST + 60_000


def test_a_receipt_beyond_the_limit_makes_an_accepted_job_wait(here):
    here.limits(gpu_minutes=5)
    here.submit("one")
    here.run("one")
    row = {"name": "h100", "fits": True, "train_s": 500.0, "evaluate_s": 100.0, "price_per_hour": 3.5}
    here.finish("one", prepared={"receipt": {"estimate": {"devices": [row]}}})
    here.round()
    assert (here.limited(), here.held()) == ({"one": "gpu_minutes"}, 0)
    assert "needs about 10.17 device minutes; of this month's 5" in here.job("one").wait_reason


def test_a_round_that_began_before_the_end_of_prepare_sends_no_training(here):
    here.limits(gpu_minutes=5)
    here.submit("one")
    apply_limits(here.database, get_settings())  # the round compares its jobs with the limits, and prepare ends then
    here.run("one")
    row = {"name": "h100", "fits": True, "train_s": 500.0, "evaluate_s": 100.0, "price_per_hour": 3.5}
    here.finish("one", prepared={"receipt": {"estimate": {"devices": [row]}}})

    def send():
        with here.database.transaction(Scope.everything) as session:
            slot = {"queue": "gpu.h100", "gpu_type": "h100", "estimated": True}
            return transitions.send(session, "one", 1, Stage.TRAIN, **slot)

    assert send() is None
    here.round()
    assert (here.limited(), send()) == ({"one": "gpu_minutes"}, None)
    here.limits(gpu_minutes=60)
    here.round()
    assert (here.held(), send()) == (600_000 + STARTS_MS, 2)


def test_a_job_that_has_only_to_be_published_waits_for_no_estimate(here):
    """Its hold is used up but for less than a minute, and so asks; a worker died while it published."""
    here.submit("one")
    here.run("one")
    here.finish("one")
    with here.database.transaction(Scope.everything) as session:
        job, hold = session.get_one(Job, "one"), session.get_one(Hold, "one")
        job.stage, hold.asks = Stage.PUBLISH, True
    here.round()
    assert here.asking() == {"one"}
    with here.database.transaction(Scope.everything) as session:
        attempt = session.get_one(Job, "one").attempt
        assert transitions.send(session, "one", attempt, Stage.PUBLISH, queue="celora", estimated=True)


def test_another_evaluation_needs_something_left_of_the_month(here):
    for changes in ({}, {"gpu_minutes": 5, "budget": 1}):
        here.limits(**changes)
        with here.database.session(Scope.everything) as session:
            admission.check_month(session, "acme")
    for limit in ("gpu_minutes", "budget"):
        here.limits(gpu_minutes=None, budget=None)
        here.limits(**{limit: 0})
        with (
            here.database.session(Scope.everything) as session,
            pytest.raises(TenantLimitError, match="nothing is left"),
        ):
            admission.check_month(session, "acme")


def test_jobs_at_once_are_limited_in_the_order_of_their_turns(here):
    here.limits(max_jobs=2)
    for job_id in ("one", "two", "three"):
        here.submit(job_id)
    assert here.lanes() == {}
    here.run("two")
    with here.database.transaction(Scope.everything) as session:
        workers.register(session, "prep@h", host="h", kind="prep", pid=1, queues=["prep"], slots=5)
    assert [release.job_id for release in here.round().releases] == ["one"]
    assert here.lanes() == {"max_jobs": {"limit": 2, "working": 2}}
    here.limits(max_jobs=1)
    assert here.round().releases == []


def test_full_storage_stops_new_work(here):
    here.limits(storage_bytes=100)
    here.submit("one")
    with here.database.transaction(Scope.everything) as session:
        session.add(Dataset(tenant="acme", name="d", version=1, sha256="1" * 64, uri="u", size_bytes=100,
                            created_at=now(session)))  # fmt: skip
    assert here.lanes() == {"storage_bytes": {"limit": 100, "stored": 100}}


def test_a_budget_below_the_estimate_is_marked_with_the_numbers(here):
    here.submit("enough", budget=1.0)
    here.submit("short", budget=0.01)
    with here.database.session(Scope.everything) as session:
        found = session.scalars(select(Event).where(Event.kind == "budget_below_estimate")).all()
        assert [(row.job_id, row.data["budget"]) for row in found] == [("short", 0.01)]
        assert found[0].data["cost"] > 0.01
        assert "below the estimate of about" in found[0].message


def test_a_class_that_is_not_granted_is_refused_with_those_that_are(here):
    with pytest.raises(SettingsError, match="urgent is not granted to tenant acme") as refused:
        here.submit("one", job_class="urgent")
    assert "normal or background" in refused.value.hint
    for wrong in ("", "urgent", "normal,royal"):
        with pytest.raises(SettingsError, match="--classes"):
            here.limits(classes=wrong)
    here.limits(classes="urgent,normal")
    here.submit("one", job_class="urgent")


def test_the_priority_has_a_ceiling(here):
    here.limits(max_priority=10)
    here.submit("one", priority=10)
    with pytest.raises(SettingsError, match="priority: 11 is above 10"):
        here.submit("two", priority=11)


def test_a_job_of_the_version_before_gets_its_hold_in_the_next_round(here):
    here.submit("old")
    with here.database.transaction(Scope.everything) as session:
        session.delete(session.get_one(Hold, "old"))
        session.scalars(select(LedgerMonth)).one().held_ms = 0
    with here.database.transaction(Scope.everything) as session:
        assert ask_for_missing(session, ["old", "nobody"]) == ["old"]
        assert ask_for_missing(session, ["old", "nobody"]) == []
    here.round()
    assert here.held() == 60_000


def test_a_round_reads_no_job_where_nothing_has_changed(here):
    here.limits(gpu_minutes=2)
    for job_id in ("one", "two", "three"):
        here.submit(job_id)
    for _ in range(2):
        apply_limits(here.database, get_settings())
    quiet = here.statements(lambda: apply_limits(here.database, get_settings()))
    assert not [words for words in quiet if words.startswith(("UPDATE", "INSERT"))]
    assert here.asking() == set()
    here.limits(gpu_minutes=3)
    assert [words for words in here.statements(lambda: apply_limits(here.database, get_settings()))
            if words.startswith("UPDATE ledger")]  # fmt: skip
    assert here.limited() == {}


def test_a_resumed_job_holds_its_estimate_anew(here):
    here.limits(gpu_minutes=1)
    here.submit("one")
    here.submit("two")
    with here.database.transaction(Scope.everything) as session:
        requests.request_pause(session, "one")
        requests.request_pause(session, "two")
    here.round()
    assert here.held() == 0
    with here.database.transaction(Scope.everything) as session:
        assert requests.resume(session, "two")
        assert requests.resume(session, "one")
    here.round()
    assert (here.held(), list(here.limited().values())) == (60_000, ["gpu_minutes"])


def test_the_jobs_of_a_lifted_limit_go_on_over_several_rounds(here, monkeypatch):
    monkeypatch.setattr(admission, "MOST_TRIED", 2)
    here.limits(gpu_minutes=0)
    for number in range(5):
        here.submit(f"job-{number}")
    here.limits(gpu_minutes=None)
    monkeypatch.setattr(admission, "MOST_REFRESHED", 0)
    counts = []
    for _ in range(4):
        here.round()
        counts.append(len(here.limited()))
    assert counts == [3, 1, 0, 0]


def test_one_tenants_limit_is_not_anothers(here):
    here.limits(gpu_minutes=0)
    here.submit("theirs", tenant="other")
    here.submit("ours")
    here.round()
    assert here.limited() == {"ours": "gpu_minutes"}
    assert here.job("theirs").status is Status.PENDING
