"""The rules of failure: each class its own, and every failed job tells what to do."""

import ast
from pathlib import Path

import pytest

from celora import errors
from celora.models.states import Reason, Stage
from celora.scheduling import retry
from celora.scheduling.retry import RULES, Failed, ruling

GIB = 2**30


def failed(code, **facts):
    return Failed(**{"stage": Stage.TRAIN, "error": {"code": code, "message": "m"}, **facts})


def decide(code, **facts):
    return ruling(failed(code, **facts), max_attempts=3, wait_s=10)


def classes(kind=errors.CeloraError):
    yield kind
    for child in kind.__subclasses__():
        yield from classes(child)


def test_every_error_that_can_be_raised_has_a_rule():
    ours = {kind.code for kind in classes() if kind.__module__ == errors.__name__}
    assert ours <= RULES.keys()


def test_every_code_that_the_supervisor_speaks_of_has_a_rule():
    source = Path(retry.__file__).parents[1] / "workers" / "trainer" / "deaths.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    pairs = [
        (key.value, value.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    ]
    codes = {value for key, value in pairs if key == "code"}
    assert codes
    assert codes <= RULES.keys()


def test_whatever_can_end_a_job_says_what_to_do():
    silent = {code for code, rule in RULES.items() if not rule.advice}
    assert silent == {"unavailable", "preempted"}  # the first brings its own hint; the second ends nothing


@pytest.mark.parametrize(
    "code",
    ["bad_settings", "bad_data", "data_limit", "base_model", "bad_base", "non_finite_loss", "diverged", "verification",
     "time_limit", "disk_full"],
)  # fmt: skip
def test_what_would_only_fail_again_ends_the_job(code):
    assert not decide(code).again


@pytest.mark.parametrize(("before", "again"), [(0, True), (1, True), (2, False)])
def test_an_internal_error_is_tried_until_the_attempts_without_progress_are_used_up(before, again):
    assert decide("internal", stale_attempts=before).again is again


def test_an_attempt_that_got_further_does_not_count():
    assert decide("internal", stale_attempts=2, progressed=True).again


def test_the_wait_doubles_and_has_an_end():
    waits = [decide("storage", faults={"storage": count}, progressed=True).wait_s for count in (0, 1, 2, 20)]
    assert waits == [10, 20, 40, 600]


@pytest.mark.parametrize(("before", "again"), [(0, True), (1, False)])
def test_a_stall_is_tried_once_more(before, again):
    assert decide("stalled", faults={"stalled": before}).again is again


@pytest.mark.parametrize(("before", "again"), [(1, True), (2, False)])
def test_a_full_machine_is_tried_twice_more(before, again):
    assert decide("host_out_of_memory", faults={"host_out_of_memory": before}).again is again


def test_a_broken_device_costs_the_job_no_attempt_and_the_worker_its_name():
    ruled = decide("device", stale_attempts=2)
    assert (ruled.again, ruled.paid, ruled.blames_device) == (True, False, True)


def test_a_job_that_breaks_every_device_ends_before_it_takes_them_all_out():
    ruled = decide("device", faults={"device": 2})
    assert (ruled.again, ruled.blames_device) == (False, True)


def test_an_unknown_code_is_treated_like_an_internal_error():
    assert decide("what?").again
    assert not decide("what?", stale_attempts=2).again


def test_the_ladder_halves_then_recomputes_then_looks_for_a_larger_device():
    recipe = {"micro_batch": 4, "accumulation": 4, "gradient_checkpointing": False}
    seen = []
    for _ in range(5):
        ruled = decide("out_of_memory", recipe=recipe, memory_bytes=16 * GIB, largest_bytes=80 * GIB)
        assert ruled.again
        assert not ruled.paid
        assert ruled.reason is Reason.ADJUSTED
        if ruled.least_memory_bytes:
            break
        seen.append((ruled.adjusted.micro_batch, bool(ruled.adjusted.gradient_checkpointing)))
        recipe = {**recipe, **{name: value for name, value in ruled.adjusted.model_dump().items() if value is not None}}
    assert seen == [(2, False), (1, False), (1, True)]
    assert ruled.least_memory_bytes == 16 * GIB + 1


@pytest.mark.parametrize(
    "facts", [{"gpu": "t4"}, {"largest_bytes": 16 * GIB}, {"memory_bytes": 0}], ids=["fixed type", "largest", "no GPU"]
)
def test_the_ladder_ends_where_no_larger_device_may_be_had(facts):
    full = {"micro_batch": 1, "gradient_checkpointing": True}
    known = {"recipe": full, "memory_bytes": 16 * GIB, "largest_bytes": 80 * GIB} | facts
    assert not decide("out_of_memory", **known).again


@pytest.mark.parametrize(("largest", "again"), [(80 * GIB, True), (16 * GIB, False)])
def test_a_base_that_does_not_even_load_needs_a_larger_device_at_once(largest, again):
    error = {"code": "out_of_memory", "facts": {"phase": "loading", "micro_batch": 4}}
    ruled = decide(
        "out_of_memory", error=error, recipe={"micro_batch": 4}, memory_bytes=16 * GIB, largest_bytes=largest
    )
    assert ruled.again is again
    assert ruled.adjusted is None


def test_an_evaluation_has_nothing_to_recompute():
    ruled = decide("out_of_memory", stage=Stage.EVALUATE, recipe={"micro_batch": 1, "gradient_checkpointing": False})
    assert not ruled.again


def test_kto_recomputes_activations_before_it_would_compare_fewer_rows():
    ran_with = {"method": "kto", "micro_batch": 4, "accumulation": 4, "gradient_checkpointing": False}
    adjusted = decide("out_of_memory", recipe=ran_with).adjusted
    assert (adjusted.micro_batch, adjusted.gradient_checkpointing) == (4, True)
    assert "with 4 rows a pass" in adjusted.why
    exhausted = decide("out_of_memory", recipe={**ran_with, "gradient_checkpointing": True})
    assert exhausted.again is False


def test_a_run_whose_host_died_with_others_inside_pays_nothing_and_blames_the_device_if_that_failed():
    shared = {"code": "host_lost", "message": "m", "facts": {"host": "g", "cause": "killed"}}
    ruled = decide("host_lost", error=shared, stale_attempts=2)
    assert (ruled.again, ruled.paid, ruled.blames_device) == (True, False, False)
    ruled = decide("host_lost", error=shared | {"facts": {"host": "g", "cause": "device"}})
    assert (ruled.again, ruled.paid, ruled.blames_device) == (True, False, True)
    assert not decide("host_lost", error=shared, faults={"host_lost": 5}).again
