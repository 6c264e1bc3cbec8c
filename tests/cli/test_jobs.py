import json

import pytest
from records import detail

from celora.cli.jobs import print_outcome
from celora.cli.open_record import record
from celora.models.jobs import requests
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

CONTRACT = {"id", "status", "stage", "step", "steps", "error"}


def test_status_is_one_object(celora, job):
    told = celora("status", job, "--json").json()
    assert set(told) >= CONTRACT
    assert (told["id"], told["status"], told["stage"], told["error"]) == (job, "pending", "prepare", None)


def test_status_for_people_names_what_it_is(celora, job):
    lines = celora("status", job).stdout.splitlines()
    assert lines[0].split() == ["job", job]
    assert lines[1].split() == ["status", "pending"]


def test_status_shows_the_adapter_that_a_job_trains_on(celora, job):
    with record().transaction(Scope.everything) as session:
        row = session.get(Job, job)
        row.spec = {**row.spec, "continue_from": "answers@40"}
    assert celora("status", job, "--json").json()["continue_from"] == "answers@40"
    assert "parent     answers@40, whose adapter it trains on" in celora("status", job).stdout


def test_list_is_a_list_the_newest_first(celora, job, rows):
    later = celora("submit", "--base-model", "smollm2-135m-instruct", "--dataset", rows, "--json").json()["id"]
    told = celora("list", "--json").json()
    assert [one["id"] for one in told] == [later, job]
    assert all(set(one) >= CONTRACT for one in told)


def test_list_can_be_narrowed(celora, job):
    assert celora("list", "--status", "running", "--json").json() == []
    unknown = celora("list", "--tenant", "nobody", "--json")
    assert (unknown.exit_code, unknown.stdout) == (66, "")
    assert "there is no tenant nobody" in unknown.stderr
    assert len(celora("list", "--tenant", "default", "--status", "pending", "--json").json()) == 1


def test_an_empty_list_says_what_to_do(celora):
    assert "celora submit" in celora("list").stdout


@pytest.mark.parametrize("command", ["status", "logs", "cancel", "evaluate", "pull"])
def test_an_unknown_job_is_a_sentence(celora, command):
    result = celora(command, "nobody")
    assert result.exit_code == 66
    assert "there is no job nobody" in result.stderr
    assert result.stdout == ""


def test_a_job_that_waits_is_cancelled_at_once(celora, job):
    assert celora("cancel", job, "--json").json() == {"id": job, "answer": "cancelled", "status": "cancelled"}
    assert "had ended before; it is cancelled" in celora("cancel", job).stdout


def test_the_beginning_of_an_id_will_do(celora, job):
    for command in ("status", "cancel", "logs"):
        assert celora(command, job[:30], "--json").exit_code == 0


def test_only_a_completed_job_can_be_evaluated_again(celora, job):
    result = celora("evaluate", job)
    assert result.exit_code == 64
    assert "only a completed job" in result.stderr


def test_logs_are_printed_stage_after_stage(celora, job, tmp_path):
    artifacts = Artifacts(get_settings().artifacts)
    for name, text in {"001-train.log": "loss 2\n", "001-prepare.log": "read 2 rows\n"}.items():
        (tmp_path / name).write_text(text)
        artifacts.put_file(tmp_path / name, artifacts.uri("jobs", job, "logs", name))
    wanted = "==> 001-prepare.log <==\nread 2 rows\n==> 001-train.log <==\nloss 2\n"
    assert celora("logs", job).stdout == wanted
    with record().transaction(Scope.everything) as session:
        requests.request_cancel(session, job)
    assert celora("logs", job, "-f").stdout == wanted


def test_a_job_without_a_log_says_so(celora, job):
    result = celora("logs", job)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "has written no log yet" in result.stderr


def test_events_tell_what_happened(celora, job):
    celora("cancel", job)
    told = celora("logs", job, "--json").json()
    assert all({"id", "at", "level", "kind", "message"} <= set(event) for event in told)
    assert len(celora("logs", job, "--events", "-f").stdout.splitlines()) == len(told) >= 2


def measured(loss):
    return {"eval_loss": loss, "perplexity": 2.0, "exact_match": 0.5, "rouge_l": 0.6, "bleu": 7.0, "tokens_per_s": 9.0}


def test_a_completed_job_prints_the_contract(capsys):
    metrics = {"base": measured(2.0), "tuned": measured(1.0), "sets": {}}
    job = detail(id="a", status="completed", adapter="file:///x", cost=0.01, metrics=metrics)
    print_outcome(job, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"]["tuned"] == {key: value for key, value in measured(1.0).items() if key != "tokens_per_s"}
    assert (told["id"], told["status"], told["adapter"], told["cost"]) == ("a", "completed", "file:///x", 0.01)


def test_a_failed_job_ends_in_its_error(capsys):
    error = {"code": "bad_data", "message": "line 3 is no JSON.", "hint": "Mend it."}
    print_outcome(detail(id="a", status="failed", error=error), as_json=False)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "celora: job a is failed: line 3 is no JSON. Mend it.\n"
