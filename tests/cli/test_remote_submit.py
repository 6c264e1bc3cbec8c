"""A job is submitted to a server with its files, and is the job that the same words make here."""

import pytest

from celora.cli.open_record import record
from celora.models.scope.scope import Scope
from celora.models.spec import JobSpec
from celora.models.tables import File, Job
from celora.services.tenants import keys
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

BASE = ("--base-model", "smollm2-135m-instruct")
PLACES = {"dataset", "eval_dataset", "gate", "user", "seed"}


@pytest.fixture
def there(celora, served, tables, monkeypatch):
    """Runs a command on the server that the environment names."""
    monkeypatch.setenv("CELORA_API_KEY", keys.create_key("default").key)
    monkeypatch.setenv("CELORA_SERVER", served)
    return celora


def spec_of(job_id):
    with record().session(Scope.everything) as session:
        return JobSpec.model_validate(session.get_one(Job, job_id).spec)


def contents():
    """The names and contents of the files that the server has."""
    with record().session(Scope.everything) as session:
        files = [(file.filename, file.uri) for file in session.query(File).order_by(File.created_at, File.id)]
    artifacts = Artifacts(get_settings().artifacts)
    return {name: artifacts.read_bytes(uri) for name, uri in files}


def test_the_job_is_that_of_the_same_words_here(celora, there, rows, monkeypatch):
    words = ("submit", *BASE, "--dataset", rows, "--rank", "8", "--metadata", "team=blue", "--json")
    sent = there(*words)
    assert sent.exit_code == 0, sent.stderr
    monkeypatch.delenv("CELORA_SERVER")
    here = celora(*words)
    one, other = (spec_of(each.json()["id"]).model_dump(exclude=PLACES) for each in (sent, here))
    assert one == other
    assert contents() == {rows.name: rows.read_bytes()}


def test_held_out_rows_and_required_rows_are_sent_too(there, rows, tmp_path):
    held_out = tmp_path / "held.jsonl"
    held_out.write_bytes(rows.read_bytes() + b"\n")
    told = there("submit", *BASE, "--dataset", rows, "--eval-dataset", held_out, "--champion", "bot",
                 "--gate", f"must_pass={held_out}", "--json")  # fmt: skip
    assert told.exit_code == 0, told.stderr
    spec = spec_of(told.json()["id"])
    assert spec.gate.must_pass == spec.eval_dataset
    assert Artifacts(get_settings().artifacts).read_bytes(spec.eval_dataset) == held_out.read_bytes()
    assert len(contents()) == 2


def test_a_folder_is_sent_as_one_file(there, rows, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_bytes(rows.read_bytes().replace(b"one", name.encode()))
    assert there("submit", *BASE, "--dataset", folder, "--json").exit_code == 0
    assert list(contents()) == ["parts.jsonl"]


def test_the_same_name_twice_is_one_job_and_the_file_is_sent_once(there, rows):
    words = ("submit", *BASE, "--dataset", rows, "--id", "nightly", "--json")
    first = there(*words).json()
    assert there(*words).json() == first
    assert there(*words, "--rank", "4").exit_code == 64
    with record().session(Scope.everything) as session:
        (file,) = session.query(File)
        assert session.query(Job).count() == 1
    other = there("submit", *BASE, "--dataset", file.id, "--json")
    assert spec_of(other.json()["id"]).dataset == spec_of(first["id"]).dataset


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (("--dataset", "missing.jsonl"), (65, "missing.jsonl is no file here")),
        (("--dataset", "https://example.com/rows.jsonl"), (65, "is no file here")),
        (("--dataset", "bad.jsonl"), (65, "bad.jsonl")),
        (("--dataset", "train.jsonl", "--tenant", "team-a"), (64, "tenant cannot be sent")),
        (("--dataset", "train.jsonl", "--rank", "-1"), (64, "rank")),
        (("--dataset", "train.jsonl", "--gpu", "no-such"), (64, "no-such")),
    ],
)
def test_a_refused_job_is_one_sentence(there, rows, tmp_path, words, refused):
    (tmp_path / "bad.jsonl").write_text("no json\n")
    result = there("submit", *BASE, *words)
    assert (result.exit_code, result.stdout) == (refused[0], "")
    assert refused[1] in result.stderr
    with record().session(Scope.everything) as session:
        assert session.query(Job).count() == 0


def test_an_unknown_model_is_the_servers_sentence(there, rows):
    result = there("submit", "--base-model", "gpt-4o", "--dataset", rows)
    assert (result.exit_code, "the model gpt-4o does not exist" in result.stderr) == (66, True)
