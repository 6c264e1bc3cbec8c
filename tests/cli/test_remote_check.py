"""A check on a server says what a check here says, and leaves nothing there."""

import threading

import pytest

from celora.cli.open_record import record
from celora.models.scope.scope import Scope
from celora.models.tables import DataCheck, File
from celora.services.native import checks
from celora.services.tenants import keys
from celora.settings.settings import get_settings
from celora.tasks.check_data import check_data

BASE = ("--base-model", "smollm2-135m-instruct")


@pytest.fixture
def there(celora, served, tables, monkeypatch):
    """Runs a command on the server that the environment names."""

    def run(*words, **options):
        monkeypatch.setenv("CELORA_API_KEY", keys.create_key("default").key)
        monkeypatch.setenv("CELORA_SERVER", served)
        try:
            return celora(*words, **options)
        finally:
            monkeypatch.delenv("CELORA_SERVER")

    return run


@pytest.fixture
def worker(tables, monkeypatch):
    """A prep worker: it makes each check that a message asks for, also where an earlier test's broker was away."""
    threads = []

    def deliver(name, kwargs, **_):
        if name == check_data.name:
            threads.append(threading.Thread(target=check_data.run, kwargs=kwargs))
            threads[-1].start()

    monkeypatch.setattr(checks.app, "send_task", deliver)
    monkeypatch.setattr(checks.messages, "attempt", lambda send, _what: send() is None)
    yield
    for thread in threads:
        thread.join()


def left():
    """The files and the checks that the server has."""
    with record().session(Scope.everything) as session:
        present = session.query(File).filter(File.deleted_at.is_(None))
        return [file.filename for file in present], session.query(DataCheck).count()


def unmeasured(result):
    """The output without the times of this machine's CPU, which are measured anew by each check."""
    if not result.stdout.startswith("{"):
        return result.stdout
    receipt = result.json()
    for device in receipt.get("estimate", {}).get("devices", []):
        if device["name"] == "cpu":
            device.clear()
    return receipt


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_output_and_exit_code_are_those_of_a_check_here(celora, there, worker, rows, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(rows.read_text() + '{"prompt": "x", "completion": ""}\n{\n')
    for words in ((rows, "--rank", "4", "--json"), (bad, "--json"), (bad,)):
        here, elsewhere = celora("check", *words, *BASE), there("check", *words, *BASE)
        assert elsewhere.exit_code == here.exit_code, elsewhere.stderr
        assert unmeasured(elsewhere) == unmeasured(here)
        said = [[line for line in each.stderr.splitlines() if line.startswith("celora:")] for each in (elsewhere, here)]
        assert said[0] == said[1]
    assert left() == ([], 0)


def test_a_file_stays_where_that_is_asked_for_and_is_used_again(there, worker, rows, monkeypatch):
    monkeypatch.setattr(checks, "_result", lambda *_, **__: {"receipt": {"ok": True}, "error": None, "failure": None})
    for words in (("--keep",), ("--keep",), ()):
        told = there("check", rows, *BASE, *words, "--json")
        assert told.exit_code == 0, told.stderr
        assert left() == ([rows.name], 0)


def test_a_check_that_fails_or_is_refused_leaves_nothing(there, worker, rows, monkeypatch):
    failure = {"code": "base_model", "message": "the base is not there.", "hint": ""}
    monkeypatch.setattr(checks, "_result", lambda *_, **__: {"failure": failure})
    told = there("check", rows, *BASE)
    assert (told.exit_code, "the base is not there" in told.stderr) == (69, True)
    assert there("check", rows, "--base-model", "gpt-4o").exit_code == 66
    assert left() == ([], 0)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["none.jsonl", *BASE], 65, "the dataset none.jsonl is no file here"),
        (["train.jsonl"], 64, "base_model is missing"),
        (["train.jsonl", *BASE, "--ranck", "3"], 64, "ranck is no field; did you mean rank?"),
        (["train.jsonl", *BASE, "--tenant", "other"], 64, "tenant cannot be sent"),
        (["https://example.org/rows.jsonl", *BASE], 65, "is no file here"),
    ],
)
def test_what_cannot_be_checked_is_refused_before_anything_is_sent(there, rows, words, code, sentence):
    told = there("check", *words)
    assert (told.exit_code, sentence in told.stderr) == (code, True), told.stderr
    assert left() == ([], 0)


def test_an_interrupted_check_leaves_nothing(there, rows, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "request_check", lambda _: True)
    monkeypatch.setattr("celora.api.client.connection.Connection.pause", interrupted)
    assert there("check", rows, *BASE).exit_code != 0
    assert left() == ([], 0)
    assert not list(get_settings().scratch.glob("celora-send-*"))


def test_keep_is_for_a_server(celora, rows):
    told = celora("check", rows, *BASE, "--keep")
    assert (told.exit_code, "--keep is for a server" in told.stderr) == (64, True)
