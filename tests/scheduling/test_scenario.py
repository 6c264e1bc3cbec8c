"""A scenario is read, checked, and made into plain records."""

import pytest

from celora.errors import SettingsError
from celora.models.states import JobClass
from celora.scheduling.scenario import parse_scenario
from celora.settings.gpus import GIB, gpu_catalogue

TYPES = gpu_catalogue({})
SMALL = {"cluster": [{"type": "h100", "count": 2}], "jobs": [{"tenant": "a", "minutes": 30}]}


def test_bursts_become_jobs_and_kinds_become_workers():
    scenario = parse_scenario(
        {
            "cluster": [
                {"type": "h100", "count": 2},
                {"type": "l4", "memory_gib": 20, "tenant": "a", "labels": ["big"]},
            ],
            "tenants": {"a": {"weight": 2, "used_gpu_hours": 1}},
            "jobs": [
                {"tenant": "a", "count": 3, "every_minutes": 10, "minutes": [10, 20], "class": "background"},
                {"tenant": "b", "id": "one", "seconds": {"h100": 5, "*": 50}, "labels": ["b", "a"], "memory_gib": 2},
            ],
        },
        TYPES,
    )
    nodes, tasks = scenario.nodes(TYPES), scenario.tasks()
    assert [node.gpu_type for node in nodes] == ["h100", "h100", "l4"]
    assert (nodes[2].memory_bytes, nodes[2].tenant, nodes[2].labels) == (20 * GIB, "a", {"big"})
    assert [task.job.id for task in tasks] == ["0-000000", "0-000001", "0-000002", "one"]
    assert (tasks[2].job.created_at - tasks[0].job.created_at).total_seconds() == 1200
    assert all(600 <= task.takes_s("h100") <= 1200 for task in tasks[:3])
    assert tasks[0].job.job_class is JobClass.BACKGROUND
    assert (tasks[3].job.labels, tasks[3].job.expected_s, tasks[3].takes_s("t4")) == ("a,b", {"h100": 5, "l4": 50}, 50)
    assert scenario.accounts()["a"].used_s == 3600


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cluster": []}, "cluster"),
        ({"cluster": [{"type": "h1000"}]}, "h1000, which is in no catalogue"),
        ({"jobs": [{"tenant": "a", "gpu": "v1"}]}, "v1, which is in no catalogue"),
        ({"jobs": [{"tenant": "a b"}]}, "tenant"),
        ({"jobs": [{"tenant": "a", "class": "vip"}]}, "class"),
        ({"jobs": [{"tenant": "a", "labels": ["Große"]}]}, "labels"),
        ({"jobs": [{"tenant": "a", "count": 300_000}]}, "300,000 jobs"),
        ({"tenants": {"a": {"weight": 0}}}, "greater than 0"),
        ({"settings": {"half_life_hours": 0}}, "greater than 0"),
        ({"settings": {"half_life_hours": float("inf")}}, "finite"),
        ({"tenants": {"a": {"weight": float("nan")}}}, "weight"),
        ({"jobs": [{"tenant": "a", "minutes": [0, 0]}]}, "minutes"),
        ({"jobs": [{"tenant": "a", "minutes": [-5, float("inf")]}]}, "minutes"),
        ({"jobs": [{"tenant": "a", "seconds": {"h100": -1}}]}, "seconds"),
        ({"jobs": [{"tenant": "a", "memory_gib": float("inf")}]}, "memory_gib"),
        ({"jobs": [{"tenant": "a", "at_hours": 1e300}]}, "after more than 100 years"),
        ({"jobs": [{"tenant": "a", "count": 100_000, "every_minutes": 1e6}]}, "after more than 100 years"),
        ({"speed": 3}, "speed"),
    ],
)
def test_a_wrong_scenario_is_refused_with_the_place(change, told):
    with pytest.raises(SettingsError) as refused:
        parse_scenario({**SMALL, **change}, TYPES)
    assert told in str(refused.value)


def test_the_example_of_the_module_is_a_scenario():
    import yaml

    from celora.scheduling import scenario

    words = scenario.__doc__.split(".. code-block:: yaml")[1]
    assert len(parse_scenario(yaml.safe_load(words), TYPES).tasks()) == 501
