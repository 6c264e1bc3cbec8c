"""Each command prints the same about the same job, whether it asks this machine's record or a server of it."""

import os
import subprocess
import sys

import pytest

from celora.cli.open_record import record
from celora.models.jobs import transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.services.tenants import keys
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

OPERATORS = {"queue", "worker", "log_uri", "adapter"}
"""Fields that name a place or a machine: a server leaves them out."""
CHANGING = {"waited_s"}
WORDED = {"wait_reason"}
"""Sentences that a server words for its tenant."""


def change(verb, *about, **fields):
    with record().transaction(Scope.everything) as session:
        return verb(session, *about, **fields)


@pytest.fixture
def key(job):
    return keys.create_key("default").key


@pytest.fixture
def both(celora, served, key, monkeypatch):
    """Runs a command here, then on the server, and returns both results."""
    monkeypatch.setenv("CELORA_API_KEY", key)
    return lambda *words: (celora(*words), celora(*words, "--server", f"{served}/v1"))


@pytest.fixture
def there(celora, served, key, monkeypatch):
    """Runs a command on the server that the environment names."""
    monkeypatch.setenv("CELORA_API_KEY", key)
    monkeypatch.setenv("CELORA_SERVER", served)
    return celora


@pytest.fixture
def failed(job):
    """A job that failed in training, whose log has two stages."""
    change(transitions.send, job, 1, "prepare", queue="prep")
    change(transitions.claim, job, 1, "prepare", worker_id="p", lease_s=90)
    change(transitions.advance, Claim(job, 1, "p"), "prepare", values={"prepared_uri": "file:///p", "prepared": {}})
    change(transitions.send, job, 1, "train", queue="gpu.cpu", gpu_type="cpu")
    change(transitions.claim, job, 1, "train", worker_id="t", lease_s=90)
    change(transitions.fail, Claim(job, 1, "t"), {"code": "out_of_memory", "message": "it is too big.", "hint": ""})
    artifacts = Artifacts(get_settings().artifacts)
    for name, text in (("001-prepare.log", "reads\r\nrows\n"), ("001-train.log", "10 %\r100 %\nno end")):
        place = get_settings().scratch / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode())
        artifacts.put_file(place, artifacts.uri("jobs", job, "logs", name))
    return job


def words_of(entry):
    """The words of an entry, which a server chooses for its tenant."""
    return {name: entry[name] for name in ("reason", "facts", "ahead")}


def shared(value):
    """A value without the fields that a server leaves out or that change from second to second."""
    if isinstance(value, list):
        return [shared(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: shared(one) for name, one in value.items() if name not in OPERATORS | CHANGING | WORDED}


def test_why_and_events_have_the_same_facts(both, job):
    here, there = both("why", job, "--json")
    assert shared(there.json()["entry"]) == {**shared(here.json()["entry"]), **words_of(there.json()["entry"])}
    assert [step["rule"] for step in there.json()["steps"]] == [step["rule"] for step in here.json()["steps"]]
    here, there = both("logs", job, "--events", "--json")
    assert [(one["id"], one["kind"], one["at"], set(one)) for one in there.json()] == [
        (one["id"], one["kind"], one["at"], set(one)) for one in here.json()
    ]


def test_a_waiting_jobs_page_list_and_place_are_equal_for_people_and_programs(both, job):
    for words in (
        ("list", "--json"),
        ("list", "--status", "pending", "--limit", "1", "--json"),
        ("status", job, "--json"),
    ):
        here, there = both(*words)
        assert shared(there.json()) == shared(here.json()), words
    here, there = (one.json() for one in both("queue", "--json"))
    assert [shared(one) for one in there] == [{**shared(one), **words_of(there[0])} for one in here]
    here, there = both("status", job)
    assert [line for line in there.stdout.splitlines() if not line.startswith("waits")] == here.stdout.splitlines()


def test_a_failed_job_and_its_logs_are_equal(both, failed):
    here, there = both("logs", failed)
    assert there.stdout == here.stdout
    assert "==> 001-train.log <==\n10 %\n100 %\nno end" in there.stdout
    here, there = both("logs", failed, "-f")
    assert there.stdout == here.stdout
    here, there = both("status", failed)
    assert "error      it is too big." in there.stdout
    assert there.exit_code == here.exit_code == 0


def test_the_beginning_of_an_id_will_do_there_too(both, job):
    for verb in ("status", "why", "logs"):
        here, there = both(verb, job[:30])
        assert (here.exit_code, there.exit_code) == (0, 0), verb


def test_a_command_for_a_server_needs_no_home_and_loads_neither_sql_nor_celery(there, job, tmp_path):
    home = tmp_path / "no home"
    program = """import sys
from celora.cli.app import app
app(["list", "--json"], standalone_mode=False)
print(*({"sqlalchemy", "celery", "torch", "fsspec", "redis"} & set(sys.modules)), file=sys.stderr)"""
    environment = {**os.environ, "CELORA_HOME": str(home), "HTTP_PROXY": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert job in done.stdout
    assert done.stderr.strip() == ""
    assert not home.exists()


def test_an_old_key_and_no_key_are_one_sentence(there, key, monkeypatch):
    keys.revoke_key(keys.list_keys()[0].id)
    for given in (key, ""):
        monkeypatch.setenv("CELORA_API_KEY", given)
        result = there("list")
        assert (result.exit_code, result.stdout) == (77, "")
        assert "Set CELORA_API_KEY to a valid key of this server." in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_server_that_is_not_there_is_one_sentence(there):
    result = there("list", "--server", "http://127.0.0.1:1")
    assert (result.exit_code, "cannot be reached" in result.stderr) == (69, True)


def test_an_unknown_job_ends_alike(both):
    for verb in ("status", "logs", "cancel", "pause", "resume", "retry", "why", "pull"):
        here, there = both(verb, "nobody")
        assert (here.exit_code, there.exit_code, there.stdout) == (66, 66, ""), verb
        assert "nobody" in there.stderr
        assert there.stderr.count("\n") == 1


def test_a_job_is_paused_resumed_and_cancelled_there_with_the_answers_of_here(there, job):
    assert there("pause", job, "--json").json() == {"id": job, "answer": "paused", "status": "pending"}
    assert there("resume", job, "--json").json() == {"id": job, "resumed": True, "status": "pending"}
    assert there("resume", job, "--json").json() == {"id": job, "resumed": False, "status": "pending"}
    assert there("cancel", job, "--json").json() == {"id": job, "answer": "cancelled", "status": "cancelled"}
    assert there("cancel", job, "--json").json() == {"id": job, "answer": "final", "status": "cancelled"}
    assert there("pause", job, "--json").json() == {"id": job, "answer": "final", "status": "cancelled"}
    assert there("resume", job, "--json").json() == {"id": job, "resumed": False, "status": "cancelled"}
    assert "had ended before; it is cancelled" in there("cancel", job).stdout


def test_a_failed_job_is_retried_there_with_changed_fields(there, failed):
    told = there("retry", failed, "--set", "priority=7", "--json").json()
    assert (told["retry_of"], told["stage"]) == (failed, "train")
    assert there("status", told["id"], "--json").json()["priority"] == 7
    refused = there("retry", failed, "--id", "mine")
    assert (refused.exit_code, "--id" in refused.stderr) == (64, True)


def test_an_option_that_only_a_record_knows_is_refused(there):
    for words, option in ((("list",), "--tenant=x"), (("queue",), "--tenant=x"), (("pull", "x"), "--tenant=x"),
                          (("pull", "x"), "--merged")):  # fmt: skip
        refused = there(*words, option)
        assert (refused.exit_code, option.partition("=")[0] in refused.stderr) == (64, True)
