"""The course against an engine without torch: its weights are a hash chain, so any lost or repeated step shows."""

import hashlib
import json
import math

import pytest

from celora.settings.errors import DiskFullError, DivergedError, NonFiniteError
from celora.tuning import checkpoint
from celora.tuning.course import Course, Progress, Saving, Step, evaluation_steps
from celora.tuning.recipe import ResolvedRecipe


class ChainEngine:
    """Keeps the contract of engine.Engine; each step hashes the step before."""

    def __init__(self, eval_losses=None, clock=lambda: 0.0, losses=lambda _step: 1.0):
        self.weights, self.best, self.step = "start", None, 0
        self.losses = losses
        self.eval_losses = eval_losses or {}
        self.evaluated, self.clock = [], clock
        self.full_disk_at = set()

    def run(self, course, resume_from):
        if resume_from is not None:
            state = json.loads((resume_from / "state.json").read_text())
            self.weights, self.best, self.step = state["weights"], state["best"], state["step"]
        if not course.begin():
            return
        while True:
            self.step += 1
            course.check(self.step, 1e-3, self.losses(self.step), 1.0)
            self.weights = hashlib.sha256(f"{self.weights}{self.step}".encode()).hexdigest()
            if not course.boundary(Step(self.step, self.step / 10, 2.0, 1e-3, 0.5, 100)):
                return

    def evaluate(self):
        self.evaluated.append(self.step)
        for done in range(4):
            self.course.evaluated(done, 4)
        return self.eval_losses.get(self.step, 1.0)

    def samples(self):
        return [{"prompt": "p", "answer": self.weights, "reference": "r"}]

    def keep_best(self):
        self.best = self.weights

    def restore_best(self):
        self.weights = self.best

    def save(self, folder):
        if self.step in self.full_disk_at:
            raise OSError(28, "No space left on device")
        (folder / "state.json").write_text(
            json.dumps({"weights": self.weights, "best": self.best, "step": self.step}), encoding="utf-8"
        )

    def memory(self):
        return None, None


class Clock:
    """Moves only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def make_course(tmp_path, recorder):
    def make(engine, *, steps=12, progress=None, record=None, clock=None, **recipe):
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
        course = Course(
            engine=engine,
            recipe=ResolvedRecipe(**settings),
            planned_steps=steps,
            emit=record,
            stop=record.stop,
            saving=Saving(tmp_path / "checkpoints", 1, {"seed": 1}, {}),
            progress=progress or Progress(),
            clock=clock or Clock(),
        )
        engine.course = course
        return course, record

    return make


def uninterrupted(make_course, **options):
    engine = ChainEngine(options.pop("eval_losses", None))
    course, record = make_course(engine, **options)
    engine.run(course, None)
    return engine, course, record


def test_a_run_reports_every_step_and_evaluates_four_times_the_last_step_among_them(make_course):
    engine, course, record = uninterrupted(make_course, steps=10)
    assert course.outcome == "finished"
    assert [event["step"] for event in record.of("progress")] == list(range(1, 11))
    assert [event["step"] for event in record.of("eval")] == [3, 5, 8, 10] == engine.evaluated
    assert record.names.index("sample") == record.names.index("eval") + 1
    assert (course.progress.tokens, course.progress.loss_sum) == (1000, 20.0)


@pytest.mark.parametrize(
    ("planned", "every", "steps"),
    [(100, None, [25, 50, 75, 100]), (6, None, [2, 3, 5, 6]), (2, None, [1, 2]), (10, 4, [4, 8, 10]), (3, 50, [3])],
)
def test_evaluations_are_four_a_run_or_as_set_and_the_last_step_is_one(planned, every, steps):
    assert evaluation_steps(planned, every) == steps


def test_progress_says_how_fast_and_how_long(make_course):
    clock = Clock()
    engine = ChainEngine()
    course, record = make_course(engine, steps=10, clock=clock, eval_steps=100)
    course.begin()
    for number in (1, 2):
        clock.now += 0.5
        course.boundary(Step(number, 0.1, 2.0, 1e-3, 0.5, 100))
    event = record.of("progress")[-1]
    assert event["tokens_per_s"] == 200
    assert event["eta_s"] == 4.0
    assert course.progress.train_s == 1.0


def test_checkpoints_come_by_steps(make_course):
    _, _, record = uninterrupted(make_course, steps=10, save_steps=4)
    assert [event["step"] for event in record.of("checkpoint")] == [4, 8]


def test_checkpoints_come_by_minutes_without_anybody_asking(make_course):
    clock = Clock()
    engine = ChainEngine()
    course, record = make_course(engine, steps=10, clock=clock)
    course.begin()
    for number in range(1, 9):
        clock.now += 200  # seconds; the default is 10 minutes
        course.boundary(Step(number, 0.1, 2.0, 1e-3, 0.5, 100))
    assert [event["step"] for event in record.of("checkpoint")] == [3, 6]


@pytest.mark.parametrize("at", [1, 3, 4, 8, 10])
def test_a_drain_redoes_no_step_and_ends_in_the_same_weights_and_events(make_course, at, recorder):
    whole, _, whole_record = uninterrupted(make_course, steps=10)

    def stop_at(record, event, fields):
        if event == "progress" and fields["step"] == at:
            record.stop.set()

    first, record = ChainEngine(), recorder(stop_at)
    course, record = make_course(first, steps=10, record=record)
    first.run(course, None)
    assert course.outcome == "drained"
    assert record.names[-1] == "checkpoint"
    saved = checkpoint.newest(course.saving.root)
    assert saved is not None
    second = ChainEngine()
    course, second_record = make_course(second, steps=10, progress=Progress(**checkpoint.read_progress(saved)))
    second.run(course, saved)
    assert course.outcome == "finished"
    assert second.weights == whole.weights
    for event in ("progress", "eval", "sample"):
        steps = [fields["step"] for fields in record.of(event) + second_record.of(event)]
        assert steps == [fields["step"] for fields in whole_record.of(event)]


def test_a_stop_that_comes_during_a_save_takes_no_further_step(make_course, recorder):
    def stop_at_4(record, event, fields):
        if event == "checkpoint" and fields["step"] == 4:
            record.stop.set()

    engine = ChainEngine()
    course, record = make_course(engine, steps=10, save_steps=4, record=recorder(stop_at_4))
    engine.run(course, None)
    assert (course.outcome, engine.step) == ("drained", 4)
    assert [event["step"] for event in record.of("checkpoint")] == [4]


def test_a_stop_before_the_first_step_leaves_nothing_behind(make_course, tmp_path):
    engine = ChainEngine()
    course, record = make_course(engine)
    record.stop.set()
    engine.run(course, None)
    assert (course.outcome, engine.step) == ("drained", 0)
    assert not (tmp_path / "checkpoints").exists()


def test_early_stopping_ends_after_the_patience_and_gives_back_the_best(make_course):
    losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.4, 5: 1.0}
    engine, course, record = uninterrupted(
        make_course, steps=12, eval_steps=1, early_stopping_patience=2, eval_losses=losses
    )
    assert course.outcome == "stopped_early"
    assert course.progress.step == 4
    assert (course.progress.best_step, course.progress.best_loss) == (2, 2.0)
    assert course.keeps_best
    best = record.of("sample")[1]["answer"]
    engine.restore_best()
    assert engine.weights == best


def test_early_stopping_survives_a_resume(make_course, recorder):
    losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.4, 5: 1.0}
    options = {"steps": 12, "eval_steps": 1, "early_stopping_patience": 2}

    def stop_at_3(record, event, fields):
        if event == "progress" and fields["step"] == 3:
            record.stop.set()

    first = ChainEngine(losses)
    course, _ = make_course(first, record=recorder(stop_at_3), **options)
    first.run(course, None)
    saved = checkpoint.newest(course.saving.root)
    second = ChainEngine(losses)
    course, _ = make_course(second, progress=Progress(**checkpoint.read_progress(saved)), **options)
    second.run(course, saved)
    assert (course.outcome, course.progress.step, course.progress.best_step) == ("stopped_early", 4, 2)
    assert second.best == first.best


def test_without_early_stopping_the_last_adapter_counts(make_course):
    _, course, _ = uninterrupted(make_course, steps=4, eval_steps=1, eval_losses={2: 0.1})
    assert course.progress.best_step == 2
    assert not course.keeps_best


@pytest.mark.parametrize(
    ("loss", "norm", "what"), [(math.nan, 1.0, "loss is nan"), (1.0, math.inf, "gradient norm is inf")]
)
def test_a_number_that_is_not_finite_ends_the_run_with_step_and_learning_rate(make_course, loss, norm, what):
    course, _ = make_course(ChainEngine())
    with pytest.raises(NonFiniteError, match=rf"{what} at step 7 of 12 \(learning rate 0.0005\)"):
        course.check(7, 5e-4, loss, norm)


def runs_away(step):
    return 2.0 if step <= 30 else 9.0


def test_a_loss_that_runs_away_ends_the_run_with_step_and_learning_rate_and_before_the_update(make_course):
    engine = ChainEngine(losses=runs_away)
    course, record = make_course(engine, steps=100, eval_steps=100, save_steps=25)
    with pytest.raises(
        DivergedError, match=r"step 49 of 100 .* lose 9\.00 .* at 2\.00 .*learning rate 0\.001"
    ) as caught:
        engine.run(course, None)
    assert [event["step"] for event in record.of("progress")][-1] == 48
    assert caught.value.facts == {"step": 49, "loss": 9.0, "began_at": 2.0, "learning_rate": 1e-3}
    assert course.situation.doing == "training"


@pytest.mark.parametrize("at", [10, 29, 40, 48])
def test_a_resumed_run_decides_on_divergence_as_the_whole_one_does(make_course, recorder, at):
    def stop(record, event, fields):
        if event == "progress" and fields["step"] == at:
            record.stop.set()

    first = ChainEngine(losses=runs_away)
    course, _ = make_course(first, steps=100, record=recorder(stop), eval_steps=100)
    first.run(course, None)
    saved = checkpoint.newest(course.saving.root)
    second = ChainEngine(losses=runs_away)
    course, _ = make_course(second, steps=100, eval_steps=100, progress=Progress(**checkpoint.read_progress(saved)))
    with pytest.raises(DivergedError, match="step 49 of 100"):
        second.run(course, saved)


@pytest.mark.parametrize("at", [3, 10])
def test_a_drain_cuts_an_evaluation_short_and_it_is_made_where_the_run_goes_on(make_course, recorder, at):
    class Interrupted(ChainEngine):
        def evaluate(self):
            if self.step == at:
                self.course.stop.set()
            return super().evaluate()

    first = Interrupted()
    course, record = make_course(first, steps=10)
    first.run(course, None)
    assert (course.outcome, course.progress.eval_due) == ("drained", True)
    assert record.names[-2:] == ["progress", "checkpoint"]
    assert [event["step"] for event in record.of("progress")] == list(range(1, at + 1))
    saved = checkpoint.newest(course.saving.root)
    second = ChainEngine()
    course, again = make_course(second, steps=10, progress=Progress(**checkpoint.read_progress(saved)))
    second.run(course, saved)
    assert course.outcome == "finished"
    assert [event["step"] for event in record.of("eval") + again.of("eval")] == [3, 5, 8, 10]
    assert [event["step"] for event in again.of("progress")] == list(range(at + 1, 11))


def test_long_evaluations_and_long_steps_say_that_they_are_alive(make_course):
    clock = Clock()

    class Slow(ChainEngine):
        def evaluate(self):
            for done in range(5):
                clock.now += 1.5
                self.course.evaluated(done, 5)
            return 1.0

    course, record = make_course(Slow(), steps=4, clock=clock, eval_steps=4)
    course.begin()
    course.passed(1, 8)
    clock.now += 31
    course.passed(2, 8)
    course.boundary(Step(4, 0.1, 2.0, 1e-3, 0.5, 100))
    told = [(event["phase"], event["done"], event["total"]) for event in record.of("phase")]
    assert told == [("in step 1", 2, 8), ("evaluating", 1, 5), ("evaluating", 3, 5)]


def test_an_eval_loss_that_is_not_finite_ends_the_run(make_course):
    with pytest.raises(NonFiniteError, match="eval loss is nan at step 3"):
        uninterrupted(make_course, steps=12, eval_losses={3: math.nan})


def test_a_full_disk_costs_a_checkpoint_and_only_the_third_in_a_row_the_run(make_course):
    engine = ChainEngine()
    engine.full_disk_at = {2, 3, 5, 6, 7}
    course, record = make_course(engine, steps=12, save_steps=1)
    with pytest.raises(DiskFullError):
        engine.run(course, None)
    assert engine.step == 7
    assert [event["step"] for event in record.of("checkpoint")] == [1, 4]
    assert [event["level"] for event in record.of("note")] == ["warning"] * 4
    assert checkpoint.newest(course.saving.root).name == "step-4"


def test_a_drain_that_cannot_save_says_so_at_once(make_course, recorder):
    engine = ChainEngine()
    engine.full_disk_at = {2}

    def stop_at_2(record, event, fields):
        if event == "progress" and fields["step"] == 2:
            record.stop.set()

    course, _ = make_course(engine, record=recorder(stop_at_2))
    with pytest.raises(DiskFullError):
        engine.run(course, None)


def test_the_engine_of_these_tests_keeps_the_contract():
    from celora.tuning.engine import Engine

    methods = [name for name in vars(Engine) if not name.startswith("_")]
    assert {"run", "evaluate", "samples", "keep_best", "restore_best", "save", "memory"} == set(methods)
    assert all(callable(getattr(ChainEngine, name)) for name in methods)
