"""The requests that a trainer host carries, and the reasons for which it refuses others."""

import pytest

from celora.tuning.protocol import Base, EvaluateRequest, GenerateRequest, HubAccess, MergeRequest, TrainRequest
from celora.tuning.recipe import Recipe
from celora.tuning.trainer.host_admission import Device, may_join, refusal, refused
from celora.tuning.trainer.host_messages import Opening

BASE = Base(
    source="there", kind="hub", name="owner/model", revision="1", parameters=1, context_tokens=8, model_type="llama"
)
COMMON = {"job": "j", "attempt": 1, "cache_dir": "/c", "base": BASE, "threads": 1}


def train(**fields):
    return TrainRequest(**{**COMMON, "prepared_dir": "/p", "recipe": Recipe(), "seed": 0, "out_dir": "/o", **fields})


def generate(**fields):
    return GenerateRequest(**{**COMMON, "prompts": ["a"], **fields})


def evaluate(recipe):
    fields = {"prepared_dir": "/p", "adapter_dir": "/a", "recipe": recipe, "metrics": [], "out_dir": "/o"}
    return EvaluateRequest(**COMMON, **fields)


def reason(request, opening=None, **host):
    found = refusal(opening or Opening(), request, **{"device": "cpu", "threads": 1, **host})
    return found and found.refused


def test_training_evaluation_and_generation_enter():
    resolved = Recipe().model_dump() | {
        "effective_batch": 1, "max_length": 8, "gradient_checkpointing": False, "optimizer": "adamw",
        "compute_dtype": "float32", "learning_rate": 1e-4, "micro_batch": 1, "accumulation": 1, "quantization": "nf4",
    }  # fmt: skip
    from celora.tuning.recipe import ResolvedRecipe

    for request in (train(), generate(), evaluate(ResolvedRecipe(**resolved))):
        assert reason(request) is None


@pytest.mark.parametrize(
    ("expected", "request_", "opening", "host"),
    [
        ("operation", MergeRequest(**COMMON, adapter_dir="/a", out_dir="/o"), Opening(), {}),
        ("exclusive", train(), Opening(exclusive=True), {}),
        ("secrets", train(), Opening(variables=["HF_TOKEN"]), {}),
        ("trackers", train(recipe=Recipe(report_to=["tensorboard"])), Opening(), {}),
        ("remote_code", train(hub=HubAccess(remote_code_bases=["owner/*"])), Opening(), {}),
        ("remote_code", generate(hub=HubAccess(remote_code_bases=["there"])), Opening(), {}),
        ("device", train(device="cuda"), Opening(), {}),
        ("threads", train(threads=2), Opening(), {}),
    ],
)
def test_what_would_change_the_process_or_needs_another_one_is_refused(expected, request_, opening, host):
    assert reason(request_, opening, **host) == expected


def test_before_a_host_exists_its_threads_decide_nothing():
    assert reason(train(threads=2), threads=None) is None


def test_a_refusal_says_its_reason_and_where_the_run_goes():
    assert refused("leaving").message == "the host is about to end; the run gets a process"


def joins(opening=Opening(tenant="a"), *inside, base=BASE, device=Device(100, 20, 2)):  # noqa: B008  (frozen)
    return may_join((opening, base), [(one, BASE) for one in inside], device)


def test_a_run_joins_another_of_its_tenant_and_base_for_which_there_is_room():
    mine, another = Opening(tenant="a"), Opening(tenant="b")
    assert joins(Opening(tenant="a", memory_bytes=10**9))  # nobody is inside
    assert joins(mine, mine)
    assert not joins(mine, mine, mine)  # two slots
    assert not joins(mine, another)
    assert not joins(mine.model_copy(update={"between_tenants": True}), another)
    both = [one.model_copy(update={"between_tenants": True}) for one in (mine, another)]
    assert joins(*both)
    assert not joins(mine, mine, base=BASE.model_copy(update={"revision": "2"}))


@pytest.mark.parametrize(("needs", "fits"), [(0, True), (70, True), (71, False)])
def test_the_base_counts_once_and_the_estimates_beside_it_together(needs, fits):
    mine = Opening(tenant="a")
    # the base takes 20; the run inside its half of the device without the base, 30; another one may need 50 of its own
    assert joins(mine.model_copy(update={"memory_bytes": needs}), mine) is fits
