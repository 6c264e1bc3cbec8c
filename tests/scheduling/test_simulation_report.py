"""The figures of a simulation, and its drawing."""

from xml.etree import ElementTree as ET

import pytest

from celora.scheduling.scenario import parse_scenario
from celora.scheduling.simulation import Outcome, Run, simulate
from celora.scheduling.simulation_report import contended, draw, jain, report
from celora.settings.gpus import gpu_catalogue

TYPES = gpu_catalogue({})


def tasks_of(*jobs):
    return parse_scenario({"cluster": [{"type": "h100"}], "jobs": list(jobs)}, TYPES).tasks()


def test_jains_index_is_one_when_all_are_equal_and_falls_to_one_of_n():
    assert jain([5, 5, 5]) == 1
    assert jain([1, 0, 0, 0]) == 0.25
    assert jain([]) == jain([0, 0]) == 1


def test_the_contended_time_is_that_in_which_every_tenant_waits():
    tasks = tasks_of({"tenant": "a", "id": "a"}, {"tenant": "b", "id": "b", "at_hours": 1})
    outcome = Outcome(
        policy="fair",
        runs=[
            Run(job_id="a", tenant="a", gpu_type="h100", started_s=7200, ended_s=9000),
            Run(job_id="b", tenant="b", gpu_type="h100", started_s=9000, ended_s=9900),
        ],
        waited_s={"a": 7200, "b": 5400},
    )
    assert contended(outcome, tasks) == (3600, 7200)
    found = report(outcome, tasks, {}, 1)
    assert (found.contended_s, found.longest_s) == (3600, 7200)
    assert [each.gpu_seconds for each in found.tenants] == [1800, 900]
    assert found.utilisation == 1.0


def test_the_drawing_is_svg_with_a_bar_for_each_tenant_and_policy():
    jobs = [{"tenant": name, "count": 3} for name in ("a.b", "c")]
    scenario = parse_scenario({"cluster": [{"type": "h100"}], "jobs": jobs}, TYPES)
    tasks, nodes = scenario.tasks(), scenario.nodes(TYPES)
    rules = scenario.settings.rules()
    reports = [
        report(simulate(tasks, nodes, {}, types=TYPES, rules=rules, policy=policy), tasks, {}, 1)
        for policy in ("fair", "fifo")
    ]
    root = ET.fromstring(draw(reports))  # noqa: S314  (drawn one line above)
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a.b", "c"} <= set(words)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 2 + 4


def test_an_empty_outcome_has_figures():
    found = report(Outcome(policy="fair"), [], {}, 4)
    assert (found.longest_s, found.utilisation, found.jain) == (0.0, 0.0, None)
    assert pytest.approx(0) == found.contended_s
    assert draw([found]).startswith("<svg")
