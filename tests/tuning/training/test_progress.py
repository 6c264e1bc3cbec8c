import json

from celora.tuning.training.engine import Step
from celora.tuning.training.progress import FILE, Pace, Progress


def step(number, *, loss=2.0, tokens=100):
    return Step(number, number / 10, loss, 1e-3, 0.5, tokens)


def test_what_is_written_is_read_again_to_the_bit(tmp_path):
    progress = Progress(drift=["another machine"])
    progress.add(step(1, loss=0.1 + 0.2), 1 / 3)
    progress.add_evaluation(1 / 7)
    progress.write(tmp_path)
    assert Progress.read(tmp_path) == progress


def test_a_checkpoint_of_a_later_version_may_hold_more(tmp_path):
    Progress(step=4).write(tmp_path)
    stored = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**stored, "moon": "full"}))
    assert Progress.read(tmp_path) == Progress(step=4)


def test_steps_add_up():
    progress = Progress()
    for number in (1, 2):
        progress.add(step(number), 0.5)
    assert (progress.step, progress.tokens, progress.loss_sum, progress.train_s) == (2, 200, 4.0, 1.0)


def test_an_evaluation_is_the_best_only_when_it_is_lower_than_every_one_before():
    progress, found = Progress(), []
    for number, loss in ((1, 3.0), (2, 2.0), (3, 2.0), (4, 2.5), (5, 1.0)):
        progress.step = number
        found.append((progress.add_evaluation(loss), progress.best_step, progress.without_gain))
    assert found == [(True, 1, 0), (True, 2, 0), (False, 2, 1), (False, 2, 2), (True, 5, 0)]
    assert (progress.eval_loss, progress.eval_step, progress.best_loss) == (1.0, 5, 1.0)


def test_the_pace_is_that_of_the_last_twenty_steps():
    pace = Pace()
    assert (pace.step_s, pace.tokens_per_s) == (0.0, None)
    pace.add(100.0, 1)
    for _ in range(20):
        pace.add(0.5, 100)
    assert (pace.step_s, pace.tokens_per_s) == (0.5, 200)
