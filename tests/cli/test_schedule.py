"""``celora schedule``: added with every field of a job, shown with what comes and what was, refused in a sentence."""

import pytest

from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables.schedule import Schedule
from celora.services.rounds import due_schedules
from celora.settings.settings import get_settings

pytestmark = pytest.mark.usefixtures("index_here")

JOB = ("--base-model", "smollm2-135m-instruct")
MONDAYS = ("--cron", "0 3 * * 1", "--timezone", "Europe/Berlin")


@pytest.fixture
def add(celora, rows):
    def add(name, *words):
        result = celora("schedule", "add", name, *JOB, "--dataset", rows.name, *words)
        assert result.exit_code == 0, result.stderr
        return result

    return add


def test_a_schedule_is_added_from_a_job_file_and_options_beside_it(celora, rows, tmp_path):
    (tmp_path / "job.yaml").write_text("base_model: smollm2-135m-instruct\ndataset: train.jsonl\nrank: 8\n")
    words = ("--spec", "job.yaml", "--rank", "4", "--missed", "skip", "--overlap", "queue", "--json")
    made = celora("schedule", "add", "weekly", *MONDAYS, *words).json()
    assert made["spec"] == {"base_model": "smollm2-135m-instruct", "dataset": str(rows), "rank": 4}
    assert (made["missed"], made["overlap"], made["timezone"]) == ("skip", "queue", "Europe/Berlin")
    assert len(made["upcoming"]) == 5


def test_what_comes_and_what_was_is_shown(celora, add):
    assert "At 03:00 on Monday; first at Mon " in add("weekly", *MONDAYS).stdout
    add("often", "--every", "6h")
    add("grown", "--when-new-rows", "500")
    add("changed", "--when-data-changed")
    listed = celora("schedule", "list").stdout
    for words in ("every 6h", "has 500 new rows", "changed", "03:00:00 CE"):
        assert words in listed
    run = celora("schedule", "run-now", "weekly")
    job = run.stdout.splitlines()[0]
    assert celora("status", job, "--json").json()["status"] == "pending"
    shown = celora("schedule", "show", "weekly").stdout
    assert shown.count("03:00:00 CE") == 5
    assert job in shown
    assert "submitted" in shown
    assert "since     train@1" in celora("schedule", "show", "grown").stdout
    again = celora("schedule", "run-now", "weekly")
    assert f"it waits behind job {job}" in again.stdout
    last = celora("schedule", "show", "weekly", "--json").json()["slots"][0]
    assert (last["outcome"], last["job_id"]) == ("waiting", None)


def test_pause_resume_and_remove(celora, add):
    add("often", "--every", "6h")
    assert "celora schedule resume often" in celora("schedule", "pause", "often").stdout
    assert "paused" in celora("schedule", "show", "often").stdout
    assert "next at" in celora("schedule", "resume", "often").stdout
    assert celora("schedule", "remove", "often").exit_code == 0
    assert "No schedule." in celora("schedule", "list").stdout
    assert celora("schedule", "list", "--json").json() == []


def test_what_went_wrong_is_shown(celora, add, rows):
    add("often", "--every", "6h")
    rows.unlink()
    with get_database().transaction(Scope.everything) as session:
        schedule = session.query(Schedule).one()
        schedule.last_slot = schedule.next_slot = schedule.created_at = schedule.created_at.replace(year=2020)
    assert due_schedules.run_due_schedules(get_database(), get_settings()) == 0
    shown = celora("schedule", "show", "often").stdout
    assert "error     the dataset" in shown
    assert "runs were missed" in shown
    assert "can't be read" in celora("schedule", "list").stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("add", "x", "--cron", "0 0 31 2 *"), 64, "never fires"),
        (("add", "x", "--cron", "0 3 * * 1", "--timezone", "Europe/Berln"), 64, "did you mean Europe/Berlin"),
        (("add", "x", "--every", "6h", "--cron", "0 3 * * 1"), 64, "not cron and every"),
        (("add", "x", "--every", "6h", "--rnk", "8"), 64, "did you mean rank"),
        (("add", "x", "--every", "6h", "--dataset", "gone.jsonl"), 65, "can't be read"),
        (("add", "x", "--every", "6h", "--spec", "gone.yaml"), 64, "does not exist"),
        (("add", "--every", "6h"), 2, "needs a name first"),
        (("add", "x", "--every", "6h", "--champion", "bot"), 64, "needs rows to be compared on"),
        (("add", "x", "--every", "6h", "--champion", "bot", "--eval-dataset", "train.jsonl", "--gate", "metric=f1"),
         64, "is no metric of a gate"),
        (("show", "weekly"), 66, "no schedule weekly"),
        (("pause", "weekly"), 66, "no schedule weekly"),
        (("run-now", "weekly"), 66, "no schedule weekly"),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_in_a_sentence(celora, rows, words, code, says):
    job = () if words[0] != "add" or "--dataset" in words else ("--dataset", rows.name)
    result = celora("schedule", *words, *(JOB if words[0] == "add" else ()), *job)
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
    assert celora("schedule", "list", "--json").json() == []


def test_a_schedule_may_compete_for_a_champion(celora, add, rows):
    made = add(
        "weekly", *MONDAYS, "--champion", "bot", "--eval-dataset", rows.name, "--gate", "min_gain=0.02", "--json"
    )
    spec = made.json()["spec"]
    assert (spec["champion"], spec["gate"], spec["eval_dataset"]) == ("bot", {"min_gain": 0.02}, "train@1")
    assert "for champion bot" in celora("schedule", "show", "weekly").stdout
