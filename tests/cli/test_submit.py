import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import until

from celora.cli.open_record import record
from celora.models.jobs import requests
from celora.models.scope.scope import Scope
from celora.models.spec import JobSpec
from celora.models.states import Status
from celora.models.tables import Job
from celora.settings.settings import get_settings

BASE = ("--base-model", "smollm2-135m-instruct")


def spec_of(job_id):
    with record().session(Scope.everything) as session:
        return JobSpec.model_validate(session.get(Job, job_id).spec)


def jobs():
    with record().session(Scope.everything) as session:
        return session.query(Job).count()


def test_a_job_is_recorded(celora, rows):
    result = celora("submit", *BASE, "--dataset", rows, "--json")
    assert result.exit_code == 0, result.stderr
    with record().session(Scope.everything) as session:
        assert session.get(Job, result.json()["id"]).status is Status.PENDING


def test_a_file_of_pairs_is_taken_by_its_method_and_refused_with_the_line_to_write(celora, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "good", "rejected": "bad"}\n')
    words = ("submit", *BASE, "--dataset", str(tmp_path / "pairs.jsonl"))
    assert celora(*words, "--method", "dpo").exit_code == 0
    refused = celora(*words)
    assert refused.exit_code == 65
    assert "Write the line `method: dpo`" in refused.stderr


@pytest.mark.slow
def test_a_job_is_recorded_even_while_the_broker_is_away(rows):
    command = [
        sys.executable,
        "-c",
        "from celora.cli.app import main; main()",
        "submit",
        *BASE,
        "--dataset",
        rows,
        "--json",
    ]
    away = {**os.environ, "CELORA_BROKER_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(command, env=away, capture_output=True, text=True, check=True)
    with record().session(Scope.everything) as session:
        assert session.get(Job, json.loads(done.stdout)["id"]).status is Status.PENDING


def test_what_will_keep_the_job_waiting_is_said_at_once_and_beside_the_json(celora, rows):
    said = celora("submit", *BASE, "--dataset", rows, "--labels", "moon", "--budget", "0.0001")
    assert "Warning: no GPU worker carries the label moon; the job waits until one does.\n" in said.stderr
    assert "Warning: its budget of 0.0001 is below the estimate" in said.stderr
    assert "Warning" not in said.stdout
    as_json = celora("submit", *BASE, "--dataset", rows, "--labels", "moon", "--json")
    assert list(as_json.json()) == ["id"]
    assert "the label moon" in as_json.stderr


def test_for_people_it_prints_the_id_and_what_to_do_next(celora, rows):
    result = celora("submit", *BASE, "--dataset", rows)
    first, *rest = result.stdout.splitlines()
    assert spec_of(first).base_model == "smollm2-135m-instruct"
    assert f"celora status {first}" in rest[0]


def test_the_dataset_is_imported_by_its_content(celora, rows):
    job_id = celora("submit", *BASE, "--dataset", rows, "--json").json()["id"]
    rows.unlink()
    uri = spec_of(job_id).dataset
    assert uri.startswith(get_settings().artifacts)
    assert Path(uri.removeprefix("file://")).read_text().startswith('{"prompt": "one"')


def test_every_field_is_an_option(celora):
    listed = celora("submit", "--help").stdout
    missing = [name for name in JobSpec.model_fields if f"--{name.replace('_', '-')}"[:24] not in listed]
    assert missing == []


def test_options_become_fields(celora, rows):
    words = [
        "--rank=8",
        "--learning-rate",
        "1e-3",
        "--packing=true",
        "--micro-batch",
        "auto",
        "--gpu",
        "cpu",
        "--seed",
        7,
    ]
    words += ["--target-modules", "q_proj,v_proj", "--metadata", "team=red", "--metadata", "run=1", "--metrics", "bleu"]
    job_id = celora("submit", *BASE, "--dataset", rows, *words, "--json").json()["id"]
    spec = spec_of(job_id)
    assert (spec.rank, spec.learning_rate, spec.packing, spec.micro_batch, spec.gpu) == (8, 1e-3, True, "auto", "cpu")
    assert (spec.target_modules, spec.metrics, spec.seed) == (["q_proj", "v_proj"], ["bleu"], 7)
    assert spec.metadata == {"team": "red", "run": "1"}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["held.jsonl"], None),
        (["a=held.jsonl", "b=held.jsonl"], ["a", "b"]),
        (["a=held.jsonl", "held.jsonl"], ["a", "held"]),
    ],
)
def test_held_out_rows_are_one_file_or_several_by_name(celora, rows, words, names):
    Path("held.jsonl").write_bytes(rows.read_bytes())
    options = [part for word in words for part in ("--eval-dataset", word)]
    spec = spec_of(celora("submit", *BASE, "--dataset", rows, *options, "--json").json()["id"])
    if names is None:
        assert spec.eval_dataset == spec.dataset  # the same content has the same place
    else:
        assert list(spec.eval_dataset) == names


def test_a_job_file_gives_fields_and_an_option_overrides_it(celora, rows):
    Path("job.yaml").write_text(f"base_model: smollm2-135m-instruct\ndataset: {rows}\nrank: 4\nepochs: 2\n")
    spec = spec_of(celora("submit", "job.yaml", "--rank", 8, "--json").json()["id"])
    assert (spec.rank, spec.epochs) == (8, 2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lr", "1e-3"], "lr is no field; did you mean learning_rate?"),
        (["--ranck=3"], "ranck is no field; did you mean rank?"),
        (["--rank", "many"], "rank: Input should be a valid integer"),
        (["--gpu", "h900"], "there is no GPU type 'h900'"),
        (["--metadata", "red"], "metadata: 'red' has no name"),
        (["one.yaml", "two.yaml"], "one.yaml, two.yaml are 2 job files"),
        (["none.yaml"], "the job file none.yaml does not exist"),
    ],
)
def test_a_bad_setting_is_refused_in_a_sentence_and_nothing_is_written(celora, rows, words, sentence):
    result = celora("submit", *BASE, "--dataset", rows, *words)
    assert result.exit_code == 64
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert jobs() == 0


def test_missing_fields_are_named(celora):
    result = celora("submit")
    assert result.exit_code == 64
    assert "base_model is missing; dataset is missing" in result.stderr


def test_a_dataset_that_is_no_file_is_refused(celora):
    result = celora("submit", *BASE, "--dataset", "none.jsonl")
    assert result.exit_code == 65
    assert "the dataset none.jsonl is no file here" in result.stderr
    assert jobs() == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("", "bad.jsonl holds no rows"), ('{"prompt": "x"\n', "bad.jsonl has 1 bad line of 1: line 1: invalid JSON")],
)
def test_a_bad_dataset_is_refused_by_its_own_name_and_nothing_is_written(celora, content, sentence):
    Path("bad.jsonl").write_text(content)
    result = celora("submit", *BASE, "--dataset", "bad.jsonl")
    assert result.exit_code == 65
    assert sentence in result.stderr
    assert jobs() == 0


def test_a_job_file_that_is_no_yaml_is_refused_with_its_line(celora):
    Path("job.yaml").write_text("base_model: [\n")
    result = celora("submit", "job.yaml")
    assert result.exit_code == 64
    assert "line 2" in result.stderr


def test_a_relative_base_model_is_recorded_by_its_whole_path(celora, rows):
    Path("models/mine").mkdir(parents=True)
    spec = spec_of(celora("submit", "--base-model", "models/mine", "--dataset", rows, "--json").json()["id"])
    assert spec.base_model == str(Path("models/mine").absolute())


def test_the_same_id_twice_is_one_job(celora, rows):
    for _ in range(2):
        assert celora("submit", *BASE, "--dataset", rows, "--id", "mine", "--json").json() == {"id": "mine"}
    assert jobs() == 1


def ends(job_id, act):
    """Ends the job from another thread as soon as it is in the record, as a worker would."""

    def is_there():
        with record().session(Scope.everything) as session:
            return session.get(Job, job_id) is not None

    def run():
        until(is_there)
        with record().transaction(Scope.everything) as session:
            act(session)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_wait_ends_with_the_job_and_only_completed_is_success(celora, rows):
    thread = ends("mine", lambda session: requests.request_cancel(session, "mine"))
    result = celora("submit", *BASE, "--dataset", rows, "--id", "mine", "--wait", "--json")
    thread.join()
    assert result.exit_code == 1
    told = result.json()
    assert (told["id"], told["status"], told["adapter"]) == ("mine", "cancelled", None)
    assert {"cost", "metrics"} <= set(told)
    assert "celora: job mine is cancelled" in result.stderr


def test_a_file_that_its_tenant_has_no_room_for_is_not_imported(celora, rows, home):
    celora("tenant", "set", "acme", "--storage-bytes", 10)
    refused = celora("submit", *BASE, "--dataset", rows, "--tenant", "acme")
    assert refused.exit_code == 77
    assert "have no room" in refused.stderr
    assert not (home / "artifacts" / "datasets").exists()
    celora("tenant", "set", "acme", "--storage-bytes", 10_000)
    assert celora("submit", *BASE, "--dataset", rows, "--tenant", "acme").exit_code == 0
