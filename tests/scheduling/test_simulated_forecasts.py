"""The estimates of a simulation learn, and its forecasts are compared with the starts that follow."""

import pytest

from celora.scheduling.scenario import parse_scenario
from celora.scheduling.simulation import simulate
from celora.scheduling.simulation_report import report
from celora.settings.gpus import gpu_catalogue

TYPES = gpu_catalogue({})

HISTORY = [
    {"tenant": "a", "count": 4, "minutes": [20, 40], "kind": kind, "estimate": estimate}
    for kind, estimate in (("short", [0.4, 0.5]), ("right", [0.95, 1.05]), ("long", [1.8, 2.2]))
]
"""Twelve jobs of three kinds: the formula says too little, is right, and says too much."""


def run(jobs, *, cluster=None, policy="fair"):
    scenario = parse_scenario({"cluster": cluster or [{"type": "h100", "count": 2}], "jobs": jobs}, TYPES)
    tasks, nodes = scenario.tasks(), scenario.nodes(TYPES)
    outcome = simulate(tasks, nodes, {}, types=TYPES, rules=scenario.settings.rules(), policy=policy)
    return outcome, report(outcome, tasks, {}, len(nodes))


def stream(tenant, **fields):
    """Jobs of the three kinds that arrive faster than the cluster works them off."""
    return [
        {**burst, "tenant": tenant, "count": 60, "every_minutes": 12, "at_hours": 2 + number / 20, **fields}
        for number, burst in enumerate(HISTORY)
    ]


def test_after_ten_jobs_of_history_half_of_the_forecasts_are_within_a_quarter_of_the_wait():
    cluster = [{"type": "h100", "count": 5}, {"type": "l4", "count": 3, "memory_gib": 24}]
    jobs = [*HISTORY, *stream("a"), *stream("b")]
    outcome, found = run(jobs, cluster=cluster)
    assert found.forecasts >= 60
    assert found.forecast_error <= 0.25
    assert (outcome.forecast_error, outcome.forecasts) == (found.forecast_error, found.forecasts)


def test_the_formula_alone_forecasts_worse_than_the_history(monkeypatch):
    jobs = [{**burst, "tenant": "a"} for burst in [*HISTORY, *stream("a")] if burst["kind"] == "short"]
    jobs[0]["count"] = 12
    learned, _ = run(jobs)
    monkeypatch.setattr("celora.scheduling.history.LEAST_RUNS", 10**9)
    formula, _ = run(jobs)
    assert learned.forecast_error <= 0.25 < formula.forecast_error


@pytest.mark.parametrize("jobs", [HISTORY[:1], [{"tenant": "a", "count": 300, "minutes": 9, "estimated": False}]])
def test_without_history_nothing_is_compared(jobs):
    outcome, found = run(jobs)
    assert (found.forecast_error, found.forecasts) == (None, 0)
    assert len(outcome.runs) == sum(burst["count"] for burst in jobs)


def test_the_comparisons_forecast_nothing():
    assert run([*HISTORY, *stream("a")], policy="fifo")[1].forecasts == 0
