import pytest

from celora.errors import DiskFullError
from celora.tuning.recipe import ResolvedRecipe
from celora.tuning.training import checkpoint
from celora.tuning.training.progress import Progress
from celora.tuning.training.saving import CheckpointPlace, CheckpointSaver


class Writer:
    """The part of an engine that a save asks for."""

    full = False

    def save(self, folder):
        if self.full:
            raise OSError(28, "No space left on device")
        (folder / "weights").write_text("w")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_saver(tmp_path, recorder, clock):
    def make(**recipe):
        record = recorder()
        resolved = ResolvedRecipe(
            micro_batch=1, accumulation=1, effective_batch=1, learning_rate=1e-3, max_length=8, optimizer="adamw",
            gradient_checkpointing=False, compute_dtype="float32", **recipe,
        )  # fmt: skip
        place = CheckpointPlace(tmp_path / "checkpoints", 3, {"seed": 1}, {"torch": "1"}, keep=2)
        return CheckpointSaver(place, resolved, record, clock), record

    return make


def test_a_save_is_due_by_steps_and_by_minutes(make_saver, clock):
    saver, _ = make_saver(save_steps=4, save_minutes=10)
    assert [step for step in range(1, 10) if saver.due(step)] == [4, 8]
    clock.now = 600
    assert saver.due(1)
    saver.restart_clock()
    assert not saver.due(1)


def test_a_save_commits_tells_and_forgets_the_oldest(make_saver, clock):
    saver, record = make_saver()
    for step in (1, 2, 3):
        clock.now += 600
        saver.save(Writer(), Progress(step=step))
        assert not saver.due(step)
    assert [(event["step"], event["size_bytes"] > 0) for event in record.of("checkpoint")] == [
        (1, True), (2, True), (3, True),
    ]  # fmt: skip
    assert [step for step, _ in checkpoint.committed(saver.place.root)] == [3, 2]
    assert Progress.read(saver.place.root / "step-3").step == 3


def test_two_misses_in_a_row_are_told_and_the_third_is_the_end(make_saver):
    saver, record = make_saver()
    writer = Writer()
    writer.full = True
    for step in (1, 2):
        saver.save(writer, Progress(step=step))
    writer.full = False
    saver.save(writer, Progress(step=3))
    assert saver.misses == 0
    writer.full = True
    for step in (4, 5):
        saver.save(writer, Progress(step=step))
    with pytest.raises(DiskFullError):
        saver.save(writer, Progress(step=6))
    assert [event["message"].split(":")[0] for event in record.of("note")] == [
        f"Checkpoint at step {step} missed" for step in (1, 2, 4, 5)
    ]


def test_a_save_that_the_run_ends_with_may_not_miss(make_saver):
    saver, record = make_saver()
    writer = Writer()
    writer.full = True
    with pytest.raises(DiskFullError):
        saver.save(writer, Progress(step=1), must=True)
    assert record.events == []
