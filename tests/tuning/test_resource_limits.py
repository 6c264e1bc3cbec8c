"""The trainer program under limits: whichever is hit, it ends with one sentence and leaves nothing behind."""

import contextvars
import json
import re
from pathlib import Path

import pytest

from celora.tuning import resource_limits
from celora.tuning.protocol import IndexRequest, Limits, PrepareRequest
from celora.tuning.recipe import Recipe
from celora.workers.trainer.supervisor import TrainerError, run_once

pytestmark = pytest.mark.slow

GOOD = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '</s>' }}{% endfor %}"
LOOP = "".join(f"{{% for {name} in range(10000) %}}" for name in "abc") + "{% endfor %}" * 3
"""10^12 rounds."""

MEMORY = "{% set x = 'x' * (10 ** 10) %}"
POWER = "{% set x = 9 ** (10 ** 9) %}"
"""One call that lets no other thread run: only the kernel ends it."""


@pytest.fixture
def refusal(tmp_path):
    """The error of a run under limits, without which it would not end; nothing but the log may be left behind."""

    def run(request):
        with pytest.raises(TrainerError) as caught:
            run_once(request, lambda _event: None, log=tmp_path / "log", environment={"OMP_NUM_THREADS": "1"})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "train.jsonl"]
        return caught.value.error

    return run


@pytest.fixture
def request_of(tmp_path, tmp_path_factory):
    def make(base=None, rows=50, words="", threads=1, **limits):
        row = json.dumps({"prompt": f"how many? {words}", "completion": "many"})
        (tmp_path / "train.jsonl").write_text((row + "\n") * rows)
        shared = {"job": "job", "attempt": 1, "cache_dir": str(tmp_path_factory.getbasetemp() / "cache")}
        shared |= {"threads": threads, "dataset": str(tmp_path / "train.jsonl"), "limits": Limits(**limits)}
        if base is None:
            return IndexRequest(out_file=str(tmp_path / "rows.hash"), **shared)
        return PrepareRequest(
            base_model=str(base), recipe=Recipe(), seed=1, out_dir=str(tmp_path / "out"), duplicates="keep", **shared
        )

    return make


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (LOOP, "chat template own did not finish one conversation within 1 s"),
        (MEMORY, "chat template own needs more memory"),
        (POWER, r"stuck in one step that nothing could interrupt .*try the chat template of"),
    ],
    ids=["loops", "fills the memory", "calculates"],
)
def test_a_template_that_does_not_end_is_ended_and_named(bare_base, request_of, refusal, template, says):
    error = refusal(request_of(bare_base(template + GOOD), memory_bytes=2**29, render_s=1))
    assert re.search(says, error["message"]), error
    assert "template" in error["message"] + error["hint"]


@pytest.mark.parametrize(
    ("template", "says"),
    [(LOOP, "did not finish one conversation within 2 s"), (MEMORY, "needs more memory")],
    ids=["loops", "fills the memory"],
)
def test_a_row_at_which_a_template_does_not_end_is_met_by_a_copy_and_named_here(
    bare_base, request_of, refusal, template, says
):
    ends = bare_base("{% if 'trap' in messages[0]['content'] %}" + template + "{% endif %}" + GOOD)
    request = request_of(ends, rows=20_000, words="w" * 60, threads=2, memory_bytes=2**29, render_s=2)
    with Path(request.dataset).open("a") as file:
        file.write('{"prompt": "a trap", "completion": "snap"}\n')
    error = refusal(request)
    assert re.search(says, error["message"]), error


def test_cpu_time_of_copies_is_limited_too(request_of, bare_base, refusal):
    error = refusal(request_of(bare_base(GOOD), rows=300_000, threads=2, cpu_s=4))
    assert "more than 4 s of CPU time" in error["message"]


def test_cpu_time_is_limited(request_of, refusal):
    error = refusal(request_of(rows=900_000, cpu_s=1))
    assert error["code"] == "data_limit"
    assert "more than 1 s of CPU time" in error["message"]
    assert "read train.jsonl" in error["message"]
    assert "CELORA_PREPARE_CPU_S" in error["hint"]


def test_wall_time_is_limited(request_of, refusal):
    error = refusal(request_of(rows=900_000, wall_s=1))
    assert "takes" in error["message"]
    assert "more than 1 s." in error["message"]
    assert "CELORA_PREPARE_WALL_S" in error["hint"]


def test_memory_is_limited(request_of, refusal):
    request = request_of(rows=1, memory_bytes=2**20)
    Path(request.dataset).write_text('{"prompt": [' + '"ab",' * 3_000_000 + '""]}\n')
    error = refusal(request)
    assert error["code"] == "data_limit"
    assert "more memory than" in error["message"]
    assert "CELORA_PREPARE_MEMORY_BYTES" in error["hint"]


def test_the_size_of_a_file_is_limited(bare_base, request_of, refusal):
    error = refusal(request_of(bare_base(GOOD), rows=3000, words="x" * 100, file_bytes=2**18))
    assert error["code"] == "data_limit"
    assert "larger than it may be" in error["message"]
    assert "CELORA_PREPARE_FILE_BYTES" in error["hint"]


def test_other_work_of_the_process_is_not_under_the_limits_of_a_request():
    guard, context = resource_limits.Guard(Limits(), lambda _error: None), contextvars.copy_context()
    context.run(resource_limits._guard.set, guard)
    context.run(resource_limits.add_cpu, 2.0)
    resource_limits.add_cpu(3.0)
    with resource_limits.rendering("theirs"), resource_limits.lifted():
        pass
    assert (guard._copies_cpu_s, guard.template) == (2.0, "")
