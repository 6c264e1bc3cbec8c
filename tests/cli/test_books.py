"""``celora usage`` and ``celora audit``: a month's use as a table, JSON and CSV, and who changed what."""

import csv
import io

import pytest

from celora.cli.open_record import record
from celora.models.database import now
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.models.tenants import ledger
from celora.models.tenants.use import month_of


@pytest.fixture
def month(celora, rows):
    """The present month, in which ``ada`` used a minute and ``=cmd()`` two."""
    for user in ("ada", "=cmd()"):
        words = ("--base-model", "smollm2-135m-instruct", "--dataset", rows, "--user", user, "--json")
        job_id = celora("submit", *words).json()["id"]
        with record().transaction(Scope.everything) as session:
            job = session.get_one(Job, job_id)
            job.gpu_seconds, job.cost = (60, 1.0) if user == "ada" else (120, 2.0)
            ledger.settle(session, job)
    with record().session(Scope.everything) as session:
        return month_of(now(session))


def test_the_use_of_a_month_is_one_row_or_its_parts(celora, month):
    whole = celora("usage", "--json").json()
    assert [(row["tenant"], row["month"], row["gpu_minutes"], row["cost"]) for row in whole] == [
        ("default", month, 3.0, 3.0)
    ]
    parts = celora("usage", "--tenant", "default", "--month", month, "--by", "user,model", "--json").json()
    assert {(row["user"], row["model"]): row["cost"] for row in parts} == {
        ("ada", "smollm2-135m-instruct"): 1.0,
        ("=cmd()", "smollm2-135m-instruct"): 2.0,
    }
    assert "$3.00" in celora("usage").stdout


def test_csv_holds_the_same_and_no_formula(celora, month):
    rows = list(csv.DictReader(io.StringIO(celora("usage", "--by", "user", "--csv").stdout)))
    assert [(row["user"], row["gpu_minutes"], row["jobs"]) for row in rows] == [("'=cmd()", "2.0", "1"),
                                                                               ("ada", "1.0", "1")]  # fmt: skip


def test_a_page_of_the_audit_begins_before_any_number(celora, month):
    assert celora("audit", "--before", "9" * 30, "--json").json() != []
    assert celora("audit", "--before", "-" + "9" * 15, "--json").json() == []


@pytest.mark.parametrize("words", [("usage",), ("audit",), ("key", "list"), ("notify", "list"), ("notify", "log")])
@pytest.mark.parametrize("name", ["", "nobody", "a/b", "\u202eevil", "x" * 300])
def test_the_rows_of_a_tenant_that_does_not_exist_are_refused(celora, words, name):
    result = celora(*words, "--tenant", name)
    assert (result.exit_code, result.stdout) == (66, "")
    assert "tenant" in result.stderr


@pytest.mark.parametrize("words", [("--month", "2026-13"), ("--month", ""), ("--month", "9" * 300), ("--by", "worker"),
                                   ("--csv", "--json")])  # fmt: skip
def test_wrong_words_are_refused_in_one_sentence(celora, words):
    result = celora("usage", *words)
    assert result.exit_code in (64, 66)
    assert "Traceback" not in result.stderr


def test_nothing_is_said_in_words(celora):
    assert "Nothing was used" in celora("usage").stdout
    assert celora("usage", "--csv").stdout == ""
    assert "No change" in celora("audit").stdout


def test_the_audit_shows_who_changed_what(celora):
    celora("tenant", "set", "team-a", "--budget", 10)
    made = celora("key", "create", "--tenant", "team-a", "--json").json()
    celora("secret", "set", "HF_TOKEN", "--tenant", "team-a", stdin="hf_" + "x" * 30)
    rows = celora("audit", "--tenant", "team-a", "--json").json()
    assert [row["action"] for row in rows] == ["secret.set", "key.create", "tenant.set"]
    assert celora("audit", "--object", made["id"], "--json").json()[0]["actor"].startswith("operator ")
    assert [row["action"] for row in celora("audit", "--action", "key", "--limit", 1, "--json").json()] == [
        "key.create"
    ]
    shown = celora("audit").stdout
    assert "tenant.set" in shown
    assert made["key"] not in shown


def actions(celora):
    return [row["action"] for row in celora("audit", "--limit", 1000, "--json").json()][::-1]


def test_each_command_that_changes_a_job_leaves_one_row(celora, job):
    for command in ("pause", "resume", "cancel", "retry"):
        result = celora(command, job)
        assert result.exit_code == 0, result.stderr
    assert actions(celora) == ["job.submit", "job.pause", "job.resume", "job.cancel", "job.retry"]
    rows = celora("audit", "--object", job, "--json").json()
    assert rows[0]["before"]["status"] == "pending"
    assert rows[0]["after"] == {"answer": "cancelled"}


def test_each_command_that_changes_a_schedule_leaves_one_row(celora, rows):
    fields = ("--base-model", "smollm2-135m-instruct", "--dataset", rows)
    assert celora("schedule", "add", "weekly", "--every", "7d", *fields).exit_code == 0
    for command in ("pause", "resume", "remove"):
        assert celora("schedule", command, "weekly").exit_code == 0
    of_data, *of_schedule = actions(celora)
    assert of_data == "dataset.add"
    assert of_schedule == ["schedule.add", "schedule.pause", "schedule.resume", "schedule.remove"]


def test_a_command_that_is_refused_leaves_no_row(celora):
    assert celora("cancel", "no-such-job").exit_code == 66
    assert celora("schedule", "pause", "weekly").exit_code == 66
    assert celora("tenant", "set", "team-a", "--budget", "-1").exit_code == 64
    assert actions(celora) == []
