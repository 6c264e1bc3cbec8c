"""The control against an engine without torch: its weights are a hash chain, so any lost or repeated step shows."""

import hashlib
import json
import math
from dataclasses import replace

import pytest

from celora.errors import DiskFullError, DivergedError, NonFiniteError
from celora.tuning.recipe import ResolvedRecipe
from celora.tuning.training import checkpoint
from celora.tuning.training.control import RunControl
from celora.tuning.training.engine import EngineFacts, Sample, Step, ignore
from celora.tuning.training.progress import Progress
from celora.tuning.training.saving import CheckpointPlace


class Clock:
    """Moves only when it is moved."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class ScriptedEngine:
    """Keeps the contract of engine.Engine: each step hashes the step before; losses and times are as a test wants."""

    facts = EngineFacts(trainable_parameters=1, total_parameters=2)
    eval_accuracy = 0.5

    def __init__(self, eval_losses=None, *, losses=lambda _step: 2.0, norm=1.0, clock=None, step_s=0.0, eval_s=0.0):
        self.weights, self.best, self.done = "start", None, 0
        self.losses, self.norm, self.eval_losses = losses, norm, eval_losses or {}
        self.clock, self.step_s, self.eval_s = clock or Clock(), step_s, eval_s
        self.evaluated, self.full_disk_at = [], set()

    def start(self):
        pass

    def resume(self, checkpoint):
        state = json.loads((checkpoint / "state.json").read_text())
        self.weights, self.best, self.done = state["weights"], state["best"], state["step"]

    def step(self, report=ignore):
        self.clock.now += self.step_s / 2
        report(1, 2)
        self.clock.now += self.step_s / 2
        report(2, 2)
        number = self.done + 1
        return Step(number, number / 10, self.losses(number), 1e-3, self.norm, 100)

    def update(self):
        self.done += 1
        self.weights = hashlib.sha256(f"{self.weights}{self.done}".encode()).hexdigest()

    def evaluate(self, report=ignore):
        self.evaluated.append(self.done)
        for done in range(4):
            self.clock.now += self.eval_s / 4
            report(done, 4)
        return self.eval_losses.get(self.done, 1.0)

    def samples(self, report=ignore):
        report(1, 1)
        return [Sample("p", self.weights, "r")]

    def keep_best(self):
        self.best = self.weights

    def restore_best(self):
        self.weights = self.best

    def save(self, folder):
        if self.done in self.full_disk_at:
            raise OSError(28, "No space left on device")
        (folder / "state.json").write_text(
            json.dumps({"weights": self.weights, "best": self.best, "step": self.done}), encoding="utf-8"
        )

    def write_adapter(self, folder):
        (folder / "adapter_model.safetensors").write_text(self.weights)

    def memory(self):
        return None, None

    def close(self):
        pass


def drive(control, resume_from=None):
    going = control.begin(resume_from)
    while going:
        going = control.advance()


def saved(control):
    return checkpoint.committed(control.saver.place.root)[0][1]


@pytest.fixture
def make_control(tmp_path, recorder):
    def make(engine, *, steps=12, progress=None, record=None, **recipe):
        record = record or recorder()
        settings = {
            "micro_batch": 1,
            "accumulation": 1,
            "effective_batch": 1,
            "learning_rate": 1e-3,
            "max_length": 8,
            "gradient_checkpointing": False,
            "optimizer": "adamw",
            "compute_dtype": "float32",
            **recipe,
        }
        control = RunControl(
            engine,
            recipe=ResolvedRecipe(**settings),
            planned_steps=steps,
            emit=record,
            stop=record.stop,
            place=CheckpointPlace(tmp_path / "checkpoints", 1, {"seed": 1}, {}),
            progress=progress,
            clock=engine.clock,
        )
        return control, record

    return make


def uninterrupted(make_control, **options):
    engine = ScriptedEngine(options.pop("eval_losses", None))
    control, record = make_control(engine, **options)
    drive(control)
    return engine, control, record


def test_each_epoch_ends_with_an_evaluation_and_then_a_checkpoint(make_control):
    options = {"steps": 9, "epochs": 3, "epoch_checkpoints": True, "save_steps": 4}
    engine, control, record = uninterrupted(make_control, **options)
    assert engine.evaluated == [3, 6, 9]
    saves = [(event["step"], event.get("epoch")) for event in record.of("checkpoint")]
    assert saves == [(3, 1), (4, None), (6, 2), (8, None), (9, 3)]
    kinds = [name for name, fields in record.events if name in ("eval", "checkpoint") and fields["step"] == 6]
    assert kinds == ["eval", "checkpoint"]
    assert {event["eval_accuracy"] for event in record.of("eval")} == {0.5}
    assert control.outcome == "finished"


def test_an_epoch_whose_end_is_a_drain_has_its_checkpoint_and_is_evaluated_afterwards(make_control, recorder):
    stop = recorder()
    engine, options = ScriptedEngine(), {"steps": 6, "epochs": 2, "epoch_checkpoints": True}
    control, record = make_control(engine, record=stop, **options)
    control.begin()
    for _ in range(2):
        control.advance()
    stop.stop.set()
    control.advance()
    assert [(event["step"], event["epoch"]) for event in record.of("checkpoint")] == [(3, 1)]
    assert (engine.evaluated, control.outcome) == ([], "drained")
    at_stop = saved(control)
    second = ScriptedEngine()
    control, record = make_control(second, progress=Progress.read(at_stop), **options)
    drive(control, at_stop)
    assert second.evaluated == [3, 6]


def test_a_run_that_stops_early_at_the_end_of_an_epoch_has_that_epochs_checkpoint(make_control):
    options = {"steps": 9, "epochs": 3, "epoch_checkpoints": True, "early_stopping_patience": 1}
    _, control, record = uninterrupted(make_control, eval_losses={3: 1.0, 6: 2.0}, **options)
    assert control.outcome == "stopped_early"
    assert [event["epoch"] for event in record.of("checkpoint")] == [1, 2]


def test_a_run_reports_every_step_and_evaluates_four_times_the_last_step_among_them(make_control):
    engine, control, record = uninterrupted(make_control, steps=10)
    assert control.outcome == "finished"
    assert [event["step"] for event in record.of("progress")] == list(range(1, 11))
    assert [event["step"] for event in record.of("eval")] == [3, 5, 8, 10] == engine.evaluated
    assert record.names.index("sample") == record.names.index("eval") + 1
    assert (control.progress.tokens, control.progress.loss_sum) == (1000, 20.0)


def test_progress_says_how_fast_and_how_long(make_control):
    control, record = make_control(ScriptedEngine(step_s=0.5), steps=10, eval_steps=100)
    control.begin()
    control.advance()
    control.advance()
    event = record.of("progress")[-1]
    assert event["tokens_per_s"] == 200
    assert event["eta_s"] == 4.0
    assert control.progress.train_s == 1.0


def test_the_time_that_other_runs_take_between_two_steps_is_not_this_run_s(make_control):
    engine = ScriptedEngine(step_s=0.5)
    control, record = make_control(engine, steps=10, eval_steps=100)
    control.begin()
    for _ in range(4):
        control.advance()
        engine.clock.now += 7
    assert control.progress.train_s == 2.0
    assert record.of("progress")[-1]["tokens_per_s"] == 200


def test_checkpoints_come_by_steps(make_control):
    _, _, record = uninterrupted(make_control, steps=10, save_steps=4)
    assert [event["step"] for event in record.of("checkpoint")] == [4, 8]


def test_checkpoints_come_by_minutes_without_anybody_asking(make_control):
    control, record = make_control(ScriptedEngine(step_s=200), steps=9)  # seconds; the default is 10 minutes
    drive(control)
    assert [event["step"] for event in record.of("checkpoint")] == [3, 6]


@pytest.mark.parametrize("at", [1, 3, 4, 8, 10])
def test_a_drain_redoes_no_step_and_ends_in_the_same_weights_and_events(make_control, at, recorder):
    whole, _, whole_record = uninterrupted(make_control, steps=10)

    def stop_at(record, event, fields):
        if event == "progress" and fields["step"] == at:
            record.stop.set()

    first, record = ScriptedEngine(), recorder(stop_at)
    control, record = make_control(first, steps=10, record=record)
    drive(control)
    assert control.outcome == "drained"
    assert record.names[-1] == "checkpoint"
    at_stop = saved(control)
    second = ScriptedEngine()
    control, second_record = make_control(second, steps=10, progress=Progress.read(at_stop))
    drive(control, at_stop)
    assert control.outcome == "finished"
    assert second.weights == whole.weights
    for event in ("progress", "eval", "sample"):
        steps = [fields["step"] for fields in record.of(event) + second_record.of(event)]
        assert steps == [fields["step"] for fields in whole_record.of(event)]


def test_a_stop_that_comes_during_a_save_takes_no_further_step(make_control, recorder):
    def stop_at_4(record, event, fields):
        if event == "checkpoint" and fields["step"] == 4:
            record.stop.set()

    engine = ScriptedEngine()
    control, record = make_control(engine, steps=10, save_steps=4, record=recorder(stop_at_4))
    drive(control)
    assert (control.outcome, engine.done) == ("drained", 4)
    assert [event["step"] for event in record.of("checkpoint")] == [4]


def test_a_stop_before_the_first_step_leaves_nothing_behind(make_control, tmp_path):
    engine = ScriptedEngine()
    control, record = make_control(engine)
    record.stop.set()
    drive(control)
    assert (control.outcome, engine.done) == ("drained", 0)
    assert not (tmp_path / "checkpoints").exists()


def test_early_stopping_ends_after_the_patience_and_gives_back_the_best(make_control):
    losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.4, 5: 1.0}
    engine, control, record = uninterrupted(
        make_control, steps=12, eval_steps=1, early_stopping_patience=2, eval_losses=losses
    )
    assert control.outcome == "stopped_early"
    assert control.progress.step == 4
    assert (control.progress.best_step, control.progress.best_loss) == (2, 2.0)
    assert control.keeps_best
    best = record.of("sample")[1]["answer"]
    engine.restore_best()
    assert engine.weights == best


def test_early_stopping_survives_a_resume(make_control, recorder):
    losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.4, 5: 1.0}
    options = {"steps": 12, "eval_steps": 1, "early_stopping_patience": 2}

    def stop_at_3(record, event, fields):
        if event == "progress" and fields["step"] == 3:
            record.stop.set()

    first = ScriptedEngine(losses)
    control, _ = make_control(first, record=recorder(stop_at_3), **options)
    drive(control)
    at_stop = saved(control)
    second = ScriptedEngine(losses)
    control, _ = make_control(second, progress=Progress.read(at_stop), **options)
    drive(control, at_stop)
    assert (control.outcome, control.progress.step, control.progress.best_step) == ("stopped_early", 4, 2)
    assert second.best == first.best


def test_without_early_stopping_the_last_adapter_counts(make_control):
    _, control, _ = uninterrupted(make_control, steps=4, eval_steps=1, eval_losses={2: 0.1})
    assert control.progress.best_step == 2
    assert not control.keeps_best


@pytest.mark.parametrize(
    ("loss", "norm", "what"), [(math.nan, 1.0, "loss is nan"), (1.0, math.inf, "gradient norm is inf")]
)
def test_a_number_that_is_not_finite_ends_the_run_before_the_weights_and_says_step_and_rate(
    make_control, loss, norm, what
):
    engine = ScriptedEngine(losses=lambda step: loss if step == 7 else 1.0)
    control, record = make_control(engine)
    control.begin()
    for _ in range(6):
        control.advance()
    engine.norm, weights = norm, engine.weights
    with pytest.raises(NonFiniteError, match=rf"{what} at step 7 of 12 \(learning rate 0.001\)"):
        control.advance()
    assert engine.weights == weights
    assert len(record.of("progress")) == 6


def test_an_overflow_that_the_loss_scaler_handles_is_no_fault(make_control):
    class Half(ScriptedEngine):
        def step(self, report=ignore):
            return replace(super().step(report), grad_norm=math.inf, overflow=self.done == 2)

    control, record = make_control(Half(norm=1.0))
    control.begin()
    with pytest.raises(NonFiniteError, match="at step 1 "):
        control.advance()
    engine = Half()
    engine.done = 2
    control, record = make_control(engine)
    control.begin()
    assert control.advance()
    assert record.of("progress")[0]["grad_norm"] == math.inf


def runs_away(step):
    return 2.0 if step <= 30 else 9.0


def test_a_loss_that_runs_away_ends_the_run_with_step_and_learning_rate_and_before_the_update(make_control):
    engine = ScriptedEngine(losses=runs_away)
    control, record = make_control(engine, steps=100, eval_steps=100, save_steps=25)
    with pytest.raises(
        DivergedError, match=r"step 49 of 100 .* lose 9\.00 .* at 2\.00 .*learning rate 0\.001"
    ) as caught:
        drive(control)
    assert [event["step"] for event in record.of("progress")][-1] == 48
    assert caught.value.facts == {"step": 49, "loss": 9.0, "began_at": 2.0, "learning_rate": 1e-3}
    assert control.situation.doing == "training"


@pytest.mark.parametrize("at", [10, 29, 40, 48])
def test_a_resumed_run_decides_on_divergence_as_the_whole_one_does(make_control, recorder, at):
    def stop(record, event, fields):
        if event == "progress" and fields["step"] == at:
            record.stop.set()

    first = ScriptedEngine(losses=runs_away)
    control, _ = make_control(first, steps=100, record=recorder(stop), eval_steps=100)
    drive(control)
    at_stop = saved(control)
    second = ScriptedEngine(losses=runs_away)
    control, _ = make_control(second, steps=100, eval_steps=100, progress=Progress.read(at_stop))
    with pytest.raises(DivergedError, match="step 49 of 100"):
        drive(control, at_stop)


@pytest.mark.parametrize("at", [3, 10])
def test_a_drain_cuts_an_evaluation_short_and_it_is_made_where_the_run_goes_on(make_control, recorder, at):
    class Interrupted(ScriptedEngine):
        def evaluate(self, report=ignore):
            if self.done == at:
                record.stop.set()
            return super().evaluate(report)

    record = recorder()
    control, _ = make_control(Interrupted(), steps=10, record=record)
    drive(control)
    assert (control.outcome, control.progress.eval_due) == ("drained", True)
    assert record.names[-2:] == ["progress", "checkpoint"]
    assert [event["step"] for event in record.of("progress")] == list(range(1, at + 1))
    at_stop = saved(control)
    second = ScriptedEngine()
    control, again = make_control(second, steps=10, progress=Progress.read(at_stop))
    drive(control, at_stop)
    assert control.outcome == "finished"
    assert [event["step"] for event in record.of("eval") + again.of("eval")] == [3, 5, 8, 10]
    assert [event["step"] for event in again.of("progress")] == list(range(at + 1, 11))


def test_long_evaluations_and_long_steps_say_that_they_are_alive(make_control):
    control, record = make_control(ScriptedEngine(step_s=62, eval_s=6), steps=2, eval_steps=2)
    drive(control)
    found = [(event["phase"], event["done"], event["total"]) for event in record.of("phase")]
    assert found == [
        ("in step 1", 1, 2),
        ("in step 1", 2, 2),
        ("in step 2", 1, 2),
        ("in step 2", 2, 2),
        ("evaluating", 1, 4),
        ("evaluating", 3, 4),
    ]


def slow_to_evaluate(step_s, **options):
    """An engine whose evaluation takes 3 s, and is expected to: 100 tokens a step."""
    engine = ScriptedEngine(step_s=step_s, eval_s=3, **options)
    engine.facts = replace(engine.facts, held_out_tokens=round(3 * 3 * 100 / step_s))
    return engine


@pytest.mark.parametrize(("step_s", "evaluated"), [(1, [12]), (4, [8, 12]), (5, [6, 12]), (10, [3, 6, 9, 12])])
def test_an_evaluation_waits_until_the_steps_have_earned_it_and_the_first_wait_is_said(make_control, step_s, evaluated):
    control, record = make_control(engine := slow_to_evaluate(step_s), steps=12)
    drive(control)
    assert engine.evaluated == evaluated == [event["step"] for event in record.of("eval")]
    notes = [event["kind"] for event in record.of("note")]
    assert notes == (["evaluation_waits"] if evaluated[0] != 3 else [])
    if notes:
        assert record.of("note")[0]["message"].startswith("The evaluation after step 3 waits: ")


@pytest.mark.parametrize("asked", [{"eval_steps": 3}, {"early_stopping_patience": 9}])
def test_evaluations_that_the_job_asked_for_never_wait(make_control, asked):
    control, record = make_control(engine := slow_to_evaluate(1), steps=12, **asked)
    drive(control)
    assert engine.evaluated == [3, 6, 9, 12]
    assert record.of("note") == []


def test_an_evaluation_that_waits_goes_on_waiting_where_the_run_goes_on(make_control, recorder):
    record = recorder(lambda one, event, fields: one.stop.set() if fields.get("step") == 4 else None)
    control, _ = make_control(slow_to_evaluate(4), steps=12, record=record)
    drive(control)
    at_stop = saved(control)
    control, _ = make_control(engine := slow_to_evaluate(4), steps=12, progress=Progress.read(at_stop))
    drive(control, at_stop)
    assert (control.outcome, engine.evaluated) == ("finished", [8, 12])


def test_an_eval_loss_that_is_not_finite_ends_the_run(make_control):
    with pytest.raises(NonFiniteError, match="eval loss is nan at step 3"):
        uninterrupted(make_control, steps=12, eval_losses={3: math.nan})


def test_a_full_disk_costs_a_checkpoint_and_only_the_third_in_a_row_the_run(make_control):
    engine = ScriptedEngine()
    engine.full_disk_at = {2, 3, 5, 6, 7}
    control, record = make_control(engine, steps=12, save_steps=1)
    with pytest.raises(DiskFullError):
        drive(control)
    assert engine.done == 7
    assert [event["step"] for event in record.of("checkpoint")] == [1, 4]
    assert [event["level"] for event in record.of("note")] == ["warning"] * 4
    assert saved(control).name == "step-4"


def test_a_drain_that_cannot_save_says_so_at_once(make_control, recorder):
    engine = ScriptedEngine()
    engine.full_disk_at = {2}

    def stop_at_2(record, event, fields):
        if event == "progress" and fields["step"] == 2:
            record.stop.set()

    control, _ = make_control(engine, record=recorder(stop_at_2))
    with pytest.raises(DiskFullError):
        drive(control)
