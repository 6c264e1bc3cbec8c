"""The forecast: place and start of waiting jobs, in the order of a round."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.models.states import JobClass, Stage
from celora.scheduling.forecast import Group, forecast, left_s
from celora.scheduling.policy import effective_class, turn
from celora.scheduling.records import Account, Holding, Node, Rules, Waiting
from celora.scheduling.slots import Slots
from celora.settings.gpus import GIB, gpu_catalogue

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
RULES, TYPES = Rules(), gpu_catalogue({})


def job(name, seconds=100.0, tenant="a", minute=0, **fields):
    facts = {"stage": Stage.TRAIN, "gpu": "h100", "priority": 0, "created_at": NOON + timedelta(minutes=minute)}
    return Waiting(id=name, tenant=tenant, expected_s={"h100": seconds, "l4": 2 * seconds}, **(facts | fields))


def group(one, **fields):
    place = (effective_class(one, RULES, NOON), turn(one, RULES, NOON))
    return Group(**{"job": one, "job_class": place[0], "turn": place[1], "named": True, **fields})


def nodes(count, gpu_type="h100"):
    return [Node(kind="gpu", gpu_type=gpu_type, memory_bytes=80 * GIB, name=f"{gpu_type}-{n}") for n in range(count)]


def held(left_s, tenant="a", gpu_type="h100"):
    return Holding(tenant=tenant, gpu_type=gpu_type, since=NOON, expected_s=left_s)


def starts(groups, workers, holdings=(), accounts=None):
    slots = Slots(workers, holdings, TYPES, RULES, NOON)
    return forecast(groups, holdings, accounts=accounts or {}, slots=slots, rules=RULES, at=NOON)


def times(*args, **options):
    return {name: start.start_s for name, start in starts(*args, **options).items()}


def test_jobs_take_the_slots_that_are_free_first():
    line = [group(job(name, minute=n)) for n, name in enumerate("xyz")]
    assert times(line, nodes(2), [held(30), held(70)]) == {"x": 30, "y": 70, "z": 130}
    assert {name: each.position for name, each in starts(line, nodes(2)).items()} == {"x": 1, "y": 2, "z": 3}


def test_the_jobs_ahead_are_counted_by_tenant_and_only_those_that_want_the_slot():
    line = [group(job("mine", tenant="b", minute=9)), group(job("first")), group(job("other", gpu="l4"))]
    found = starts(line, [*nodes(1), *nodes(1, "l4")], [held(50)], {"b": Account(used_s=9_999)})
    assert (found["mine"].position, found["mine"].ahead, found["mine"].start_s) == (2, {"a": 1}, 150)
    assert found["other"].start_s == 0


def test_a_group_of_alike_jobs_is_played_as_so_many():
    many = group(job("", minute=-5), jobs=10, named=False)
    alone = [group(job(f"{n}", minute=-5)) for n in range(10)]
    mine = group(job("mine", minute=1))
    assert times([many, mine], nodes(3))["mine"] == times([*alone, mine], nodes(3))["mine"] == 300


def test_an_urgent_job_comes_first_and_a_job_without_a_worker_never():
    line = [group(job("normal")), group(job("urgent", job_class=JobClass.URGENT, minute=5)), group(job("t", gpu="t4"))]
    assert times(line, nodes(1)) == {"urgent": 0, "normal": 100, "t": None}


def test_a_tenant_at_its_limit_waits_for_its_own_jobs_and_leaves_the_other_slots():
    line = [group(job("x")), group(job("theirs", tenant="b", minute=1))]
    limits = {"a": Account(max_gpus=1)}
    assert times(line, nodes(3), [held(500)], limits) == {"x": 500, "theirs": 0}
    assert times(line, nodes(3), [], {"a": Account(max_jobs=0)}) == {"x": None, "theirs": 0}


def test_preparing_has_slots_of_its_own():
    workers = [*nodes(1), Node(kind="prep", name="prep-0")]
    assert times([group(job("p", stage=Stage.PREPARE))], workers, [held(500)]) == {"p": 0}


def test_a_job_that_fits_several_types_takes_the_one_that_is_free_first():
    line = [group(job("x", gpu="auto", memory_bytes=4 * GIB))]
    assert times(line, [*nodes(1), *nodes(1, "l4")], [held(10), held(5, gpu_type="l4")]) == {"x": 5}


@given(
    lengths=st.lists(st.floats(1, 10_000), min_size=1, max_size=12),
    busy=st.lists(st.floats(1, 10_000), min_size=1, max_size=5),
    data=st.data(),
)
def test_for_one_type_no_start_is_later_when_load_is_taken_away(lengths, busy, data):
    line = [group(job(f"{n:02}", seconds, minute=n)) for n, seconds in enumerate(lengths)]
    before = times(line, nodes(len(busy)), [held(left_s) for left_s in busy])
    gone = data.draw(st.integers(0, len(line) + len(busy) - 1))
    rest = [one for n, one in enumerate(line) if n != gone]
    running = [held(left_s) for n, left_s in enumerate(busy, len(line)) if n != gone]
    after = times(rest, nodes(len(busy)), running)
    assert all(after[name] <= before[name] + 1e-6 for name in after)


@given(order=st.permutations(range(8)))
def test_the_order_in_which_groups_are_read_changes_nothing(order):
    line = [group(job(f"{n}", 10.0 * (1 + n % 3), tenant="abc"[n % 3], priority=n % 2)) for n in range(8)]
    assert starts([line[n] for n in order], nodes(2)) == starts(line, nodes(2))


@pytest.mark.parametrize("jobs", [100_000])
def test_the_last_of_a_long_queue_is_found_in_few_steps(jobs):
    tenants = [f"t{n}" for n in range(20)]
    line = [group(job("", tenant=name, minute=-60), jobs=jobs // 20, named=False) for name in tenants]
    found = starts([*line, group(job("mine", tenant="t0", minute=1))], nodes(100))["mine"]
    assert abs(found.position - jobs) < jobs * 0.06
    assert found.start_s == pytest.approx(100 * jobs / 100, rel=0.06)


def test_a_held_job_that_is_expected_to_take_no_time_is_not_one_of_which_nothing_is_known():
    at = datetime(2026, 11, 30, 12, tzinfo=UTC)
    held = {seconds: Holding(tenant="a", gpu_type="l4", since=at, expected_s=seconds) for seconds in (0.0, 90.0, None)}
    assert [left_s(each, Rules(unknown_s=1800), at) for each in held.values()] == [1.0, 90.0, 1800]
