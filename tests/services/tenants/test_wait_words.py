"""The reason why a job waits, for its tenant: every code has a sentence, and none says what the operator's says."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from celora.models.states import Stage, Status
from celora.models.tables import Job, LaneReason
from celora.scheduling import explain
from celora.scheduling.explain import Code, Reason
from celora.services.tenants import wait_words

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
GIB = 2**30
WORKER = "zq-worker@zq-node: cordoned, 'see zq-ticket'"
REASONS = (
    explain.quota("acme", 2),
    explain.nothing_fits(30 * GIB, {"h100": 80 * GIB}),
    explain.nothing_fits(30 * GIB, {}),
    explain.nothing_fits(30 * GIB, {}, [WORKER]),
    explain.busy("h100", total=0, used=0, ahead=None),
    explain.busy(None, total=0, used=0, ahead=None, obstacles=[WORKER]),
    explain.busy("h100", total=0, used=0, ahead=None, others=3),
    explain.busy("h100", total=0, used=0, ahead=None, others=3, labels="big,eu"),
    explain.busy("h100", total=4, used=4, ahead=3),
    explain.paused("job"),
    explain.backoff(12.3, {"device": 2}),
    explain.max_jobs(2, 2),
    explain.gpu_minutes(limit=10, spent=4, held=3, wanted=5),
    explain.budget(limit=10, spent=4, held=3, wanted=5),
    explain.storage(10, 1_000_000),
    explain.job_budget("job", cost=3.5, budget=3),
)
"""A reason of each code, some with the names of workers in their facts."""
OPERATORS = re.compile(r"zq|`|celora|celery|worker|max_gpus_per_tenant|another tenant|None")


def job():
    return Job(id="job", tenant="acme", status=Status.PENDING, stage=Stage.TRAIN, gpu="auto", created_at=AT,
               paused=False, memory_bytes=8 * GIB, least_memory_bytes=None, limited=None, not_before=None)  # fmt: skip


def test_every_code_has_a_reason_here():
    assert {reason.code for reason in REASONS} == set(Code)


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.code)
def test_no_sentence_names_a_worker_a_setting_or_a_command(reason: Reason):
    said = wait_words.words_of(reason.code, {name: value for name, value in reason.facts.items() if value is not None})
    assert not OPERATORS.search(said)
    assert said not in ("", wait_words.TURN)
    assert wait_words.words_of(reason.code, {})  # facts of an older version


def test_a_reason_of_a_newer_version_says_that_the_job_waits():
    assert wait_words.words_of("of-tomorrow", {"worker": WORKER}) == wait_words.TURN


def test_a_waiting_job_has_the_reason_of_its_lane_with_the_memory_that_it_needs():
    facts = dict(explain.nothing_fits(None, {"a10": 4 * GIB}).facts)
    lane = LaneReason(code=Code.NOTHING_FITS, facts=facts, sentence="the operator's")
    words = wait_words.wait_words(job(), lane, AT)
    assert words == "needs about 8.0 GiB of device memory; the largest device has 4 GiB"


def test_a_job_that_waits_for_itself_says_why():
    limited = {"code": "job_budget", **explain.job_budget("job", cost=3.5, budget=3).facts}
    waiting = job()
    assert wait_words.wait_words(waiting, None, AT) == wait_words.TURN
    waiting.not_before = AT + timedelta(seconds=30)
    assert "in 30 s" in wait_words.wait_words(waiting, None, AT)
    assert wait_words.wait_words(waiting, None, AT + timedelta(seconds=31)) == wait_words.TURN
    waiting.paused = True
    assert wait_words.wait_words(waiting, None, AT).startswith("paused")
    waiting.limited = limited
    assert wait_words.wait_words(waiting, None, AT).startswith("the job's budget of 3 is used")
