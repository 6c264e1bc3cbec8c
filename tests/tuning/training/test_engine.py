"""The contract of engine.Engine, asked of every engine: the trainer's own and the mini engine of the chaos suite."""

import gc
import threading
import weakref

import pytest
from chaos import chain

from celora.tuning.failures import Situation
from celora.tuning.recipe import ResolvedRecipe
from celora.tuning.training.control import RunControl
from celora.tuning.training.engine import Engine
from celora.tuning.training.progress import Progress
from celora.tuning.training.saving import CheckpointPlace

STEPS = 6
CALLS = {"facts", "start", "resume", "step", "update", "evaluate", "samples", "keep_best", "restore_best", "save"}
CALLS |= {"eval_accuracy", "write_adapter", "memory", "close"}
ADAPTER_FILES = {"adapter_model.safetensors", "adapter_config.json"}
SFT = {
    "sft": {"quantization": "none"},
    "sft packed": {"quantization": "none", "packing": True, "micro_batch": 1, "accumulation": 2},
    "sft nf4": {"quantization": "nf4"},
    "sft bf16": {"quantization": "nf4", "compute_dtype": "bfloat16", "gradient_checkpointing": True},
}


@pytest.fixture(params=["chain", *(pytest.param(name, marks=pytest.mark.slow) for name in SFT)])
def make_engine(request, tmp_path):
    """Makes a fresh engine of a run; two runs differ by their seed."""
    folders = iter(range(100))

    def chain_engine(seed=11):
        return chain.ChainEngine(chain.start_of(seed, "0"), tmp_path / f"{next(folders)}.log", 0.0)

    def sft_engine(seed=11):
        from celora.tuning.training.run import Run  # imports torch

        make = request.getfixturevalue("make_request")
        fields = {"seed": seed}
        train = make(out=f"run-{next(folders)}", max_steps=STEPS, dropout=0.1, request=fields, **SFT[request.param])
        return Run(train, lambda *_, **__: None, threading.Event(), Situation("cpu")).engine

    made = weakref.WeakSet()  # a dropped engine is to be gone

    def make(seed=11):
        engine = chain_engine(seed) if request.param == "chain" else sft_engine(seed)
        made.add(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def weights_of(tmp_path):
    """The bytes of an engine's adapter at this moment."""
    count = iter(range(1000))

    def read(engine):
        folder = tmp_path / f"adapter-{next(count)}"
        folder.mkdir()
        engine.write_adapter(folder)
        return (folder / "adapter_model.safetensors").read_bytes()

    return read


def take(engine, steps):
    """Take so many steps."""
    found = []
    for _ in range(steps):
        found.append(engine.step())
        engine.update()
    return found


def started(engine):
    engine.start()
    return engine


def saved(engine, folder):
    folder.mkdir()
    engine.save(folder)
    return folder


def test_every_call_is_there(make_engine):
    assert {name for name in vars(Engine) if not name.startswith("_")} == CALLS
    engine = make_engine()
    assert [name for name in CALLS if not hasattr(engine, name)] == []
    assert 0 < engine.facts.trainable_parameters < engine.facts.total_parameters


def test_steps_are_counted_from_one_and_carry_their_numbers(make_engine):
    steps = take(started(make_engine()), 3)
    assert [step.number for step in steps] == [1, 2, 3]
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    assert all(step.loss > 0 and step.grad_norm > 0 and step.learning_rate > 0 for step in steps)
    assert all(isinstance(step.tokens, int) and step.tokens > 0 and not step.overflow for step in steps)


def test_a_step_leaves_the_weights_alone_and_its_update_changes_them(make_engine, weights_of):
    engine = started(make_engine())
    before = weights_of(engine)
    engine.step()
    assert weights_of(engine) == before
    engine.update()
    assert weights_of(engine) != before


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_resumed_run_takes_the_very_same_steps(make_engine, weights_of, tmp_path, at):
    whole = started(make_engine())
    expected = take(whole, STEPS)
    first = started(make_engine())
    found = take(first, at)
    folder = saved(first, tmp_path / "checkpoint")
    second = make_engine()
    second.resume(folder)
    assert found + take(second, STEPS - at) == expected
    assert weights_of(second) == weights_of(whole)


def test_evaluations_samples_and_saves_leave_no_trace_in_the_run(make_engine, weights_of, tmp_path):
    plain, disturbed = started(make_engine()), started(make_engine())
    expected, found = take(plain, STEPS), []
    for number in range(STEPS):
        found += take(disturbed, 1)
        loss = disturbed.evaluate()
        assert disturbed.evaluate() == loss
        assert disturbed.samples() == disturbed.samples()
        disturbed.memory()
        disturbed.keep_best()
        saved(disturbed, tmp_path / f"checkpoint-{number}")
    assert found == expected
    assert weights_of(disturbed) == weights_of(plain)


def test_an_evaluation_that_is_broken_off_leaves_no_trace(make_engine, weights_of):
    class Enough(Exception):  # noqa: N818
        pass

    def break_off(done, total):
        raise Enough

    plain, disturbed = started(make_engine()), started(make_engine())
    expected, found = take(plain, 3), take(disturbed, 1)
    with pytest.raises(Enough):
        disturbed.evaluate(break_off)
    found += take(disturbed, 2)
    assert found == expected
    assert weights_of(disturbed) == weights_of(plain)


def test_two_runs_in_turns_are_each_what_they_are_alone(make_engine, weights_of):
    alone = {seed: started(make_engine(seed)) for seed in (11, 12)}
    expected = {seed: take(engine, 4) for seed, engine in alone.items()}
    in_turns = {seed: started(make_engine(seed)) for seed in (11, 12)}
    found = {11: [], 12: []}
    for _ in range(4):
        steps = {seed: engine.step() for seed, engine in in_turns.items()}
        for seed, engine in in_turns.items():
            engine.update()
            engine.evaluate()
            found[seed].append(steps[seed])
    assert found == expected
    assert {s: weights_of(e) for s, e in in_turns.items()} == {s: weights_of(e) for s, e in alone.items()}
    assert weights_of(alone[11]) != weights_of(alone[12])


def test_the_best_adapter_survives_a_resume_and_comes_back(make_engine, weights_of, tmp_path):
    engine = started(make_engine())
    take(engine, 2)
    engine.keep_best()
    best = weights_of(engine)
    take(engine, 2)
    folder = saved(engine, tmp_path / "checkpoint")
    second = make_engine()
    second.resume(folder)
    assert weights_of(second) != best
    second.restore_best()
    assert weights_of(second) == best


def test_an_adapter_is_two_files(make_engine, tmp_path):
    engine = started(make_engine())
    (tmp_path / "adapter").mkdir()
    engine.write_adapter(tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == ADAPTER_FILES


def test_a_long_call_reports_how_far_it_is(make_engine):
    engine, seen = started(make_engine()), []

    def report(done, total):
        assert 0 < done <= total
        seen.append((done, total))

    engine.step(report)
    steps = list(seen)
    engine.update()
    engine.evaluate(report)
    assert steps[-1][0] == steps[-1][1]
    assert len(seen) > len(steps)


def test_an_engine_that_is_dropped_gives_its_memory_back(make_engine):
    engine = make_engine()
    take(started(engine), 1)
    model = getattr(engine, "_model", None)
    weights = [weakref.ref(each) for each in model.parameters()] if model is not None else []
    gone = weakref.ref(engine)
    engine.close()
    engine.close()
    del engine, model
    gc.collect()
    assert gone() is None
    assert [each for each in weights if each() is not None] == []


def test_an_engine_that_never_began_can_be_closed(make_engine):
    make_engine().close()


@pytest.fixture
def control_of(tmp_path, recorder):
    recipe = ResolvedRecipe(
        micro_batch=1, accumulation=1, effective_batch=1, learning_rate=1e-3, max_length=8, compute_dtype="float32",
        gradient_checkpointing=False, optimizer="adamw", save_steps=4, eval_steps=3,
    )  # fmt: skip

    def make(engine, stop_at=None, progress=None):
        def on(record, event, fields):
            if event == "progress" and fields["step"] == stop_at:
                record.stop.set()

        record, place = recorder(on), CheckpointPlace(tmp_path / "checkpoints", 1, {"seed": 1}, {})
        options = {"recipe": recipe, "planned_steps": STEPS, "place": place, "progress": progress}
        return RunControl(engine, emit=record, stop=record.stop, **options), record

    return make


def drive(control, resume_from=None):
    going = control.begin(resume_from)
    while going:
        going = control.advance()


def told(record):
    """What two runs that are one have in common: events and their numbers, paths and times apart."""
    volatile = {"tokens_per_s", "eta_s", "path", "size_bytes"}
    events = [(name, fields) for name, fields in record.events if name not in ("phase", "checkpoint")]
    return [(name, {key: value for key, value in fields.items() if key not in volatile}) for name, fields in events]


@pytest.mark.parametrize("at", [2, 3, STEPS])
def test_a_drained_run_and_the_one_that_goes_on_tell_together_what_a_whole_one_tells(
    make_engine, weights_of, control_of, at
):
    whole, whole_record = control_of(make_engine())
    drive(whole)
    first, record = control_of(make_engine(), stop_at=at)
    drive(first)
    assert (first.outcome, record.names[-1]) == ("drained", "checkpoint")
    checkpoint = record.of("checkpoint")[-1]
    assert checkpoint["step"] == at
    progress = Progress.read(first.saver.place.root / f"step-{at}")
    second, again = control_of(make_engine(), progress=progress)
    drive(second, first.saver.place.root / f"step-{at}")
    assert second.outcome == "finished"
    assert told(record) + told(again) == told(whole_record)
    assert weights_of(second.engine) == weights_of(whole.engine)


def test_the_events_of_a_run_come_in_their_order(make_engine, control_of):
    control, record = control_of(make_engine())
    drive(control)
    order = [name for name in record.names if name not in ("phase", "sample")]
    evaluated, kept = "progress eval", "progress checkpoint"
    assert order == f"progress progress {evaluated} {kept} progress {evaluated}".split()
