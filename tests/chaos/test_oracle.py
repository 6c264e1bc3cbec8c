"""The oracle itself: a checker that finds nothing is no proof, so it is shown what it must find."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import chain, plot
from chaos.legal import faults_of
from chaos.oracle import attempts_in_order, one_end

STAGES = ("prepare", "train", "evaluate", "publish")


def life(attempt=1):
    events = [event("submitted")]
    for stage in STAGES:
        if stage in ("prepare", "train"):
            events.append(event("queued", stage))
        events += [event("stage_started", stage), event("stage_finished", stage)]
    return [*events, event("completed", "publish")]


def event(kind, stage=None, attempt=1):
    return {"kind": kind, "attempt": attempt, "data": {"stage": stage} if stage else {}}


def test_a_whole_life_is_legal():
    assert faults_of(life()) == []


@pytest.mark.parametrize("position", range(len(life())))
def test_a_history_that_lacks_an_event_or_has_one_twice_is_not(position):
    events = life()
    assert position == len(events) - 1 or faults_of(events[:position] + events[position + 1 :])
    assert faults_of(events[: position + 1] + events[position:])


def test_a_remark_of_an_attempt_that_is_over_is_a_fault():
    events = [event("submitted"), event("queued", "prepare"), event("stage_started", "prepare")]
    lost = [*events, event("worker_lost", "prepare")]
    assert faults_of(lost) == []
    assert faults_of([*lost, event("note", attempt=2)]) == []
    assert faults_of([*lost, event("note", attempt=1)]) == ["event 4 (note) of attempt 1 while 2 is the present one"]


def test_an_event_after_the_end_is_a_fault_unless_it_measures_again():
    assert faults_of([*life(), event("evaluated_again")]) == []
    assert faults_of([*life(), event("note")]) == ["event 12 (note) after the end, which was completed"]


def test_no_end_and_two_ends_and_a_stage_done_twice_are_told():
    job = {"status": "completed", "stage": "publish", "error": None}
    assert one_end(job, life(), "completed") == []
    assert one_end(job, life()[:-1], "completed") == ["has 0 ends"]
    assert one_end(job, [*life(), life()[-1]], "completed") == ["has 2 ends"]
    assert "train was finished 2 times" in one_end(job, [*life(), event("stage_finished", "train")], "completed")
    assert one_end(job | {"status": "running"}, life()[:-1], "completed") == ["is running in publish and not completed"]


def test_two_open_attempts_are_told():
    job = {"status": "completed", "attempt": 2}
    rows = [{"number": 1, "started_at": 1, "ended_at": 2}, {"number": 2, "started_at": 3, "ended_at": 4}]
    assert attempts_in_order(rows, job) == []
    assert attempts_in_order([rows[0] | {"ended_at": None}, rows[1]], job)
    assert attempts_in_order([rows[0] | {"ended_at": 3.5}, rows[1]], job)
    assert attempts_in_order([rows[1], rows[0]], job)


def test_the_chain_sees_a_lost_a_repeated_and_a_reordered_step():
    def walk(steps):
        weights = chain.start_of(1, "data")
        for step in steps:
            weights = chain.after(weights, step)
        return weights

    wanted = chain.expected(1, "data", 5)
    assert walk([1, 2, 3, 4, 5]) == wanted
    for steps in ([1, 2, 4, 5], [1, 2, 3, 3, 4, 5], [1, 3, 2, 4, 5]):
        assert walk(steps) != wanted
    assert chain.expected(2, "data", 5) != wanted != chain.expected(1, "other", 5)


def test_the_mini_trainer_speaks_the_protocol_and_resumes_to_the_same_weights(tmp_path):
    from celora.tuning.protocol import PrepareRequest, TrainRequest
    from celora.tuning.recipe import Recipe

    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    recipe = Recipe(max_steps=40, save_steps=10)
    common = {"job": "j", "cache_dir": str(tmp_path), "recipe": recipe, "seed": 1}
    prepared = run(
        tmp_path,
        PrepareRequest(**common, attempt=1, base_model="chain", dataset=str(rows), out_dir=str(tmp_path / "prepared")),
    )[-1]["result"]
    train = TrainRequest(
        **common, attempt=1, base=prepared["base"], prepared_dir=str(tmp_path / "prepared"), out_dir=str(tmp_path / "1")
    )
    whole = run(tmp_path, train)
    assert [event["step"] for event in whole if event["event"] == "checkpoint"] == [10, 20, 30]
    again = train.model_copy(
        update={"attempt": 2, "out_dir": str(tmp_path / "2"), "resume_from": str(tmp_path / "1/checkpoints/step-20")}
    )
    assert run(tmp_path, again)[-1]["result"]["steps"] == 40
    weights = [(tmp_path / n / "adapter" / "adapter_model.safetensors").read_text() for n in "12"]
    assert weights == [chain.expected(1, prepared["dataset_sha256"], 40)] * 2
    assert len((tmp_path / "steps/j/002.log").read_text().splitlines()) == 20


def run(folder, request):
    events, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, str(Path(chain.__file__).with_name("mini_trainer.py")), "--events-fd", str(theirs)],
        stdin=subprocess.PIPE,
        pass_fds=(theirs,),
        env={**os.environ, "CHAOS_STEPS": str(folder / "steps"), "CHAOS_STEP_S": "0"},
    )
    os.close(theirs)
    process.stdin.write(request.model_dump_json().encode() + b"\n")
    process.stdin.flush()
    with os.fdopen(events) as lines:
        told = [json.loads(line) for line in lines]
    process.stdin.close()
    assert process.wait(30) == 0
    return told


def test_a_plot_is_well_formed():
    from xml.parsers import expat

    for page in (
        plot.curves("t & u", "seconds", {"a": [1, 2, 3], "b": [2.5]}, marks=[(2, "lease")]),
        plot.bars("t", {"lost": {"x": 0, "y": 4}, "twice": {"x": 0, "y": 12.5}}),
    ):
        expat.ParserCreate().Parse(page, True)  # noqa: FBT003  (expat takes no keywords)
