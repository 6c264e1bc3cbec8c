"""The sentence of a waiting job says who is ahead, when a slot is free, and what part of its share its tenant used."""

import pytest

from celora.models.jobs import transitions
from celora.models.queue.use import add_use
from celora.models.scope.scope import Scope
from celora.models.states import Stage
from celora.services.queue.listing import place_of


@pytest.fixture
def busy(here):
    """One slot that a job of half an hour holds, and the jobs of two teams that wait for it."""
    here.worker()
    here.job("runs", tenant="team-b", seconds=1800.0)
    here.round()
    with here.database.transaction(Scope.everything) as session:
        assert transitions.claim(session, "runs", 1, Stage.TRAIN, worker_id="h100-0@h", lease_s=9000)
    for number, tenant in enumerate(("team-a", "team-b", "team-b", "team-a")):
        here.job(f"{tenant}-{number}", tenant=tenant)
        here.older(f"{tenant}-{number}", 20 - number)
    with here.database.transaction(Scope.everything) as session:
        add_use(session, "team-a", 600.0)
        add_use(session, "team-b", 600.0)
    here.round()
    return here


def test_an_operator_reads_who_is_ahead_the_next_slot_and_the_share(busy):
    last = place_of("team-b-2")
    assert (last.code, last.ahead) == ("busy", {"team-a": 2, "team-b": 1})
    reason, ahead, free, share = last.reason.split("; ")
    assert reason == "all 1 gpu.h100 slots are taken (1 in use)"
    assert ahead == "2 jobs of team-a, 1 job of tenant team-b are ahead"
    assert free == "the next h100 is expected free in about 30 min"
    assert share == "tenant team-b has used 160% of its share of late"
    assert last.share_used == pytest.approx(1.6, abs=0.01)


def test_a_tenant_reads_of_its_team_and_of_others_as_one(busy):
    first = place_of("team-a-0", scope=Scope.of("team-a"))
    assert "; next in line; the next h100 is expected free in about 30 min; your team has used 40%" in first.reason
    last = place_of("team-b-2", scope=Scope.of("team-b"))
    assert "2 jobs of other tenants, 1 job of your team are ahead" in last.reason
    assert "team-a" not in str(last)


def test_a_type_without_a_worker_names_the_one_on_which_the_job_would_start(here):
    here.worker("l4-0@h", gpu_type="l40s")
    here.job("one", gpu="h100")
    here.round()
    assert place_of("one").reason.endswith("; `gpu: auto` would start on l40s now")
    here.job("any", gpu="auto")
    here.round()
    assert "would start" not in place_of("one").reason


def test_who_waits_alone_has_no_share(here):
    here.worker()
    here.job("runs")
    here.job("waits")
    here.round()
    here.round()
    (entry,) = [entry for entry in (place_of("runs"), place_of("waits")) if entry]
    assert entry.share_used is None
    assert "next in line" in entry.reason
    assert "share" not in entry.reason
