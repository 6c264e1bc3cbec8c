import io

import pytest
from records import detail
from rich.console import Console

from celora.cli.watch import Bars, Lines, facts

WAITS = {"id": "a", "status": "pending", "stage": "prepare", "wait_reason": "no prep worker is online"}
TRAINS = {
    "id": "a",
    "status": "running",
    "stage": "train",
    "step": 10,
    "steps": 60,
    "loss": 0.69471,
    "tokens_per_s": 118.2,
}
FAILED = {"id": "a", "status": "failed", "stage": "train", "error": {"message": "the loss is not finite at step 3."}}


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (WAITS, "no prep worker is online"),
        ({**TRAINS, "eta_s": 84}, "step 10/60  loss 0.6947  118 tokens/s  1 min 24 s left"),
        ({**TRAINS, "step": 0, "phase": "loading the base"}, "loading the base"),
        (FAILED, "the loss is not finite at step 3."),
        ({**TRAINS, "status": "completed"}, ""),
    ],
)
def test_what_there_is_to_say_about_a_job(job, words):
    assert facts(detail(**job)) == words


def test_lines_are_printed_for_news_only():
    out = Console(file=io.StringIO())
    with Lines(out) as view:
        for job in (WAITS, WAITS, TRAINS, {**TRAINS, "step": 11}, FAILED):
            view.show(detail(**job))
    lines = out.file.getvalue().splitlines()
    assert [line.split()[1:3] for line in lines] == [["prepare", "pending"], ["train", "running"], ["train", "failed"]]


def test_bars_show_a_bar_per_stage():
    out = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Bars(out) as view:
        for job in (WAITS, TRAINS, {**TRAINS, "status": "completed", "stage": "publish"}):
            view.show(detail(**job))
    drawn = out.file.getvalue()
    assert all(stage in drawn for stage in ("prepare", "train", "publish"))
    assert "step 10/60" in drawn
