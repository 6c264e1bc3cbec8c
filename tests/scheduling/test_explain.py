"""Reasons: their codes and facts for programs, their sentences for people, to the letter."""

import json

import pytest

from celora.scheduling import explain
from celora.scheduling.explain import GIB, Code, Reason

OUT = ["h100-0@box is cordoned", "h100-1@box is unhealthy"]
REASONS = {
    Code.QUOTA: (
        explain.quota("shop", 2),
        "tenant shop holds all 2 of its GPU slots (max_gpus_per_tenant)",
    ),
    Code.NO_GPU_WORKER: (
        explain.nothing_fits(None, {}),
        "no GPU worker is online; start one with `celery -A celora.workers worker --gpu 0` or `celora node`",
    ),
    Code.NO_GPU_WORKER_READY: (
        explain.nothing_fits(None, {}, OUT),
        "no GPU worker takes work: h100-0@box is cordoned; h100-1@box is unhealthy",
    ),
    Code.NOTHING_FITS: (
        explain.nothing_fits(25 * GIB, {"t4": 15 * GIB, "a10g": 22 * GIB}, OUT),
        "needs about 25.0 GiB of device memory; the largest online is a10g with 22 GiB",
    ),
    Code.NO_WORKER: (
        explain.busy("h100", total=0, used=0, ahead=0),
        "no worker of type h100 is online; start one with `celery -A celora.workers worker --gpu 0` on such a machine",
    ),
    Code.NO_WORKER_READY: (
        explain.busy("h100", total=0, used=0, ahead=1, obstacles=OUT),
        "no h100 worker takes work: h100-0@box is cordoned; h100-1@box is unhealthy",
    ),
    Code.BUSY: (
        explain.busy("h100", total=2, used=2, ahead=1, obstacles=OUT),
        "all 2 gpu.h100 slots are taken (2 in use); 1 job ahead",
    ),
    Code.RESERVED: (
        explain.busy("h100", total=0, used=0, ahead=0, others=2),
        "every h100 worker that is online is reserved for another tenant",
    ),
    Code.NO_LABEL: (
        explain.nothing_fits(None, {}, labels="highmem,team-a", special=True),
        "no GPU worker that takes work carries the labels highmem, team-a",
    ),
    Code.PAUSED: (
        explain.paused("order-bot-1"),
        "paused; `celora resume order-bot-1` lets it go on",
    ),
    Code.MAX_JOBS: (explain.max_jobs(4, 4), "4 of the tenant's jobs are worked on, and 4 may be at once"),
    Code.GPU_MINUTES: (
        explain.gpu_minutes(limit=600, spent=590, held=8, wanted=5),
        "needs about 5 device minutes; of this month's 600, 590 are used and 8 are held by other jobs",
    ),
    Code.BUDGET: (
        explain.budget(limit=100, spent=90, held=8, wanted=5),
        "needs about 5 of the budget; of this month's 100, 90 are used and 8 are held by other jobs",
    ),
    Code.STORAGE: (
        explain.storage(10 << 30, 11 << 30),
        "the tenant stores 11,811,160,064 bytes and may store 10,737,418,240",
    ),
    Code.JOB_BUDGET: (
        explain.job_budget("order-bot-1", cost=1.5, budget=1.5),
        "its budget of 1.5 is used (1.5); `celora resume order-bot-1 --budget 3` lets it go on",
    ),
    Code.BACKOFF: (
        explain.backoff(89.6, {"storage": 2, "internal": 1}),
        "tried again in 90 s (so far: storage x2, internal x1)",
    ),
}


def test_every_code_has_a_sentence():
    assert set(REASONS) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_a_reason_is_a_code_with_facts_and_its_sentence_is_made_from_them(code):
    reason, sentence = REASONS[code]
    assert reason.code is code
    assert reason.sentence() == sentence


@pytest.mark.parametrize("code", Code)
def test_a_reason_that_went_through_json_gives_the_same_sentence(code):
    reason, sentence = REASONS[code]
    told, facts = json.loads(json.dumps([reason.code, dict(reason.facts)]))
    assert Reason(Code(told), facts).sentence() == sentence


def test_a_sentence_counts_the_jobs_ahead_and_names_the_kind_of_slot():
    assert explain.busy(None, total=1, used=1, ahead=0).sentence() == (
        "all 1 prep slots are taken (1 in use); next in line"
    )
    assert explain.busy("cpu", total=1, used=1, ahead=3).sentence().endswith("3 jobs ahead")
    assert explain.busy(None, total=0, used=0, ahead=0).sentence() == (
        "no prep worker is online; start one with `celora node`"
    )
    assert explain.busy(None, total=0, used=0, ahead=0, obstacles=OUT[:1]).sentence() == (
        "no prep worker takes work: h100-0@box is cordoned"
    )


def test_a_backoff_is_never_shorter_than_a_second():
    assert explain.backoff(0.2, {}).sentence() == "tried again in 1 s"


def test_the_reason_of_a_whole_lane_names_no_place_and_leaves_room_for_the_memory():
    assert explain.busy("h100", total=2, used=2, ahead=None).sentence() == "all 2 gpu.h100 slots are taken (2 in use)"
    assert explain.nothing_fits(None, {"t4": 15 * GIB}).sentence() == (
        "needs about {need} of device memory; the largest online is t4 with 15 GiB"
    )
