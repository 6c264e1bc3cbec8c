"""The records of a round as they are read from the tables."""

import pytest

from celora.models import workers
from celora.models.database import now
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage
from celora.models.tables import Job, Tenant
from celora.scheduling.slots import Slots
from celora.services.rounds.dispatch import decide_on
from celora.services.rounds.queue_facts import most_of, read_queue, rules_of
from celora.settings.settings import load_settings

GIB = 2**30


@pytest.fixture
def filled(home, database):
    """A record with two tenants' jobs, a free worker of one type and a prep worker."""
    with database.transaction(Scope.everything) as session:
        for number in range(6):
            for tenant in ("acme", "rival"):
                fields = {"base_model": "b", "dataset": "/d", "tenant": tenant, "gpu": "t4" if number % 2 else "h100"}
                accept.submit(session, job_id=f"{tenant}{number}", spec=parse_spec(fields))
        facts = {"host": "h", "pid": 1, "slots": 2}
        workers.register(session, "prep@h", kind="prep", queues=["prep"], **facts)
        workers.register(session, "t4@h", kind="gpu", queues=["gpu.t4"], gpu_type="t4", memory_bytes=16 * GIB, **facts)
        session.get_one(Tenant, "rival").max_gpus = 1
    return database


def read(database, **settings):
    with database.session(Scope.everything) as session:
        return read_queue(session, load_settings(running=False, **settings), now(session))


def test_a_round_reads_as_many_jobs_of_a_lane_as_there_are_free_slots(filled):
    facts = read(filled)
    assert len(facts.lanes) == 4
    assert sorted(job.id for job in facts.jobs) == [f"{tenant}{n}" for tenant in ("acme", "rival") for n in range(4)]
    assert facts.cut == set(facts.lanes)
    assert facts.standing.accounts["rival"].max_gpus == 1
    assert {node.kind: node.slots for node in facts.nodes} == {"prep": 2, "gpu": 2}


def test_a_lane_whose_type_has_no_free_slot_is_not_read(filled):
    facts = read(filled)
    lane = facts.lanes[0]._replace(stage=Stage.TRAIN)
    slots = Slots(facts.nodes, [], facts.types, facts.rules)
    wanted = {gpu: most_of(lane.stage, gpu, slots) for gpu in ("h100", "t4", "auto")}
    assert wanted == {"h100": 0, "t4": 2, "auto": 2}


def test_the_rules_are_the_settings(home):
    settings = load_settings(
        running=False, share_half_life_hours=2, aging_hours=3, auto_wait_minutes=4, preemption=True
    )
    rules = rules_of(settings)
    assert (rules.half_life_s, rules.aging_s, rules.auto_wait_s) == (7200, 10800, 240)


def test_a_small_job_behind_large_ones_gets_the_small_slot_that_is_free(here_with_auto):
    facts = read(here_with_auto)
    assert [job.id for job in facts.jobs] == ["small"]
    assert [release.job_id for release in decide_on(facts).releases] == ["small"]


@pytest.fixture
def here_with_auto(home, database):
    """A free slot of 16 GiB, and jobs for any type: five that need 80 GiB, and behind them a small one."""
    with database.transaction(Scope.everything) as session:
        for number, name in enumerate(["large"] * 5 + ["small"]):
            job_id = name if name == "small" else f"large-{number}"
            accept.submit(session, job_id=job_id, spec=parse_spec({"base_model": "b", "dataset": "/d"}))
            job = session.get_one(Job, job_id)
            job.stage, job.memory_bytes = Stage.TRAIN, 4 * GIB if name == "small" else 80 * GIB
        workers.register(session, "t4@h", kind="gpu", queues=["gpu.t4"], gpu_type="t4", memory_bytes=16 * GIB, host="h",
                         pid=1, slots=1)  # fmt: skip
    return database
