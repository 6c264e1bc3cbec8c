"""The policy over time: shares, bounds on waiting, the use of the cluster."""

import pytest

from celora.scheduling.scenario import parse_scenario
from celora.scheduling.simulation import simulate
from celora.scheduling.simulation_report import report
from celora.settings.gpus import gpu_catalogue

TYPES = gpu_catalogue({})


def run(jobs, *, cluster=None, policy="fair", tenants=None, **settings):
    fields = {"cluster": cluster or [{"type": "h100", "count": 2}], "jobs": jobs, "tenants": tenants or {}}
    scenario = parse_scenario({**fields, "settings": settings}, TYPES)
    tasks, nodes = scenario.tasks(), scenario.nodes(TYPES)
    outcome = simulate(tasks, nodes, scenario.accounts(), types=TYPES, rules=scenario.settings.rules(), policy=policy)
    weights = {name: party.weight for name, party in scenario.tenants.items()}
    return outcome, report(outcome, tasks, weights, len(nodes))


TEAMS = [f"team-{number:02d}" for number in range(8)]
MIXED = [
    {"tenant": name, "count": 60, "minutes": [5, 60], "priority": number % 3, "at_hours": 0.1 * (number % 4),
     "gpu": ("auto", "h100", "auto", "l4")[number % 4]}
    for number, name in enumerate(TEAMS)
]  # fmt: skip
CLUSTER = [{"type": "h100", "count": 4}, {"type": "l4", "count": 5}, {"type": "t4", "count": 3}]


def test_while_all_wait_each_tenant_is_served_by_its_weight():
    jobs = [{"tenant": name, "count": 200, "minutes": [5, 30]} for name in ("a", "b", "c")]
    tenants = {"a": {"weight": 1}, "b": {"weight": 2}, "c": {"weight": 3}}
    _, found = run(jobs, tenants=tenants, cluster=[{"type": "h100", "count": 8}])
    assert found.jain > 0.99
    assert found.contended_s > 3600
    _, fifo = run(jobs, tenants=tenants, cluster=[{"type": "h100", "count": 8}], policy="fifo")
    assert fifo.jain is None or fifo.jain < found.jain


def test_a_mixed_load_is_fair_and_uses_the_cluster_as_well_as_first_in_first_out():
    outcome, found = run(MIXED, cluster=CLUSTER)
    _, fifo = run(MIXED, cluster=CLUSTER, policy="fifo")
    assert len(outcome.waited_s) == 480
    assert found.utilisation > fifo.utilisation - 0.03
    assert found.never == []


def test_a_burst_delays_another_tenants_single_job_by_one_job_at_most():
    jobs = [{"tenant": "burst", "count": 1000, "minutes": 30}, {"tenant": "single", "at_hours": 1.1, "minutes": 5}]
    _, found = run(jobs)
    waits = {each.tenant: each.longest_s for each in found.tenants}
    assert waits["single"] <= 30 * 60
    _, fifo = run(jobs, policy="fifo")
    assert {each.tenant: each.longest_s for each in fifo.tenants}["single"] > 100 * 3600


def test_idle_time_earns_no_more_than_the_credit():
    """After a day of nothing a tenant may not keep the cluster until it has caught up."""
    jobs = [
        {"tenant": "steady", "count": 400, "minutes": 30},
        {"tenant": "back", "at_hours": 24, "count": 100, "minutes": 30},
    ]
    outcome, _ = run(jobs)
    at_first = [run for run in outcome.runs if 24 * 3600 <= run.started_s < 29 * 3600]
    shares = [sum(run.tenant == name for run in at_first) for name in ("steady", "back")]
    assert min(shares) >= 0.3 * sum(shares)


def test_no_job_waits_longer_than_the_aging_bound():
    """A low priority waits for its age, then for older jobs of its tenant alone, then for one job."""
    jobs = [
        {"tenant": "a", "count": 400, "every_minutes": 15, "minutes": 30, "priority": 9},
        {"tenant": "a", "id": "low", "at_hours": 1, "minutes": 30, "priority": -9},
    ]
    outcome, _ = run(jobs, cluster=[{"type": "h100", "count": 1}], aging_hours=6)
    older_s = 4 * 30 * 60
    assert 6 * 3600 <= outcome.waited_s["low"] <= 6 * 3600 + older_s + 30 * 60
    starved, _ = run(jobs, cluster=[{"type": "h100", "count": 1}], aging_hours=8000)
    assert starved.waited_s["low"] > 48 * 3600


def test_an_urgent_job_takes_the_slot_of_a_lower_class_and_no_work_is_lost():
    jobs = [
        {"tenant": "a", "count": 3, "minutes": 60},
        {"tenant": "b", "id": "now", "at_hours": 0.5, "minutes": 10, "class": "urgent"},
    ]
    outcome, found = run(jobs, preemption=True)
    assert (outcome.waited_s["now"], found.preemptions) == (0.0, 1)
    assert sum(run.ended_s - run.started_s for run in outcome.runs) == pytest.approx(3 * 3600 + 600)
    patient, found = run(jobs)
    assert (patient.waited_s["now"], found.preemptions) == (1800.0, 0)


def test_background_jobs_run_where_nobody_else_needs_the_slot():
    jobs = [{"tenant": "a", "count": 4, "minutes": 60, "class": "background"},
            {"tenant": "b", "count": 4, "minutes": 60, "at_hours": 0.5}]  # fmt: skip
    outcome, _ = run(jobs)
    ended = [run.tenant for run in sorted(outcome.runs, key=lambda run: (run.started_s, run.job_id))]
    assert ended == ["a", "a", "b", "b", "b", "b", "a", "a"]


def test_a_job_that_fits_no_worker_is_named_and_stops_nothing():
    jobs = [{"tenant": "a", "id": "huge", "memory_gib": 500}, {"tenant": "a", "id": "small", "minutes": 5}]
    outcome, found = run(jobs)
    assert (found.never, list(outcome.waited_s)) == (["huge"], ["small"])


def test_a_small_job_behind_large_ones_takes_the_small_slot():
    cluster = [{"type": "h100", "count": 1}, {"type": "t4", "count": 1}]
    jobs = [
        {"tenant": "a", "count": 9, "minutes": 60, "memory_gib": 60},
        {"tenant": "a", "minutes": 60, "memory_gib": 4},
    ]
    outcome, _ = run(jobs, cluster=cluster)
    assert {one.job_id: one.gpu_type for one in outcome.runs}["1-000000"] == "t4"
    assert outcome.waited_s["1-000000"] == 0


def test_the_same_scenario_gives_the_same_outcome():
    first, second = run(MIXED, cluster=CLUSTER)[0], run(MIXED, cluster=CLUSTER)[0]
    assert first.runs == second.runs
