"""Jobs and files are read from a server by OpenAI's own client."""

import pytest
from openai import OpenAI

from celora.api.client.openai_source import OpenAISource, SourceFile, read_job
from celora.api.client.server import Server
from celora.errors import AccessError, NotFoundError, StorageError, UnavailableError
from celora.services.openai import files
from celora.services.tenants import keys

ROWS = b'{"prompt": "one", "completion": "1"}\n{"prompt": "two", "completion": "2"}\n'
JOB = {"id": "ftjob-1", "created_at": 1, "status": "succeeded", "model": "gpt-4o", "training_file": "file-1", "seed": 7}


@pytest.fixture
def source(record, served, monkeypatch):
    """A source with a file and a job, and the id of the file."""
    monkeypatch.setattr(files.messages, "attempt", lambda send, what, **_: False)
    key = keys.create_key("default").key
    with OpenAI(base_url=f"{served}/v1", api_key=key) as client:
        file = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
        client.fine_tuning.jobs.create(model="smollm2-135m-instruct", training_file=file.id, suffix="bot", seed=7)
    with OpenAISource(Server(url=served, key=key, local=True)) as opened:
        opened.file_id, opened.key = file.id, key
        yield opened


def test_jobs_and_files_are_those_of_the_server(source, tmp_path):
    (job,) = source.jobs(10)
    assert (job.model, job.training_file, job.method, job.seed) == (
        "smollm2-135m-instruct",
        source.file_id,
        "supervised",
        7,
    )
    file = source.file(job.training_file)
    assert (file.filename, file.size_bytes) == ("rows.jsonl", len(ROWS))
    source.download(file, tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_bytes() == ROWS
    assert source.jobs(1) == [job]


@pytest.mark.parametrize("size_bytes", [len(ROWS) - 1, len(ROWS) + 1])
def test_a_file_of_another_size_is_refused(source, tmp_path, size_bytes):
    file = SourceFile(id=source.file_id, filename="rows.jsonl", bytes=size_bytes)
    with pytest.raises(StorageError, match="should have"):
        source.download(file, tmp_path / "rows.jsonl")


def test_a_missing_file_an_old_key_and_a_server_that_is_away_are_one_sentence_each(source, served):
    with pytest.raises(NotFoundError, match="there is no file"):
        source.file("file-none")
    keys.revoke_key(keys.list_keys()[0].id)
    with pytest.raises(AccessError) as caught:
        source.jobs(1)
    assert source.key not in str(caught.value)
    with OpenAISource(Server(url="http://127.0.0.1:1", key="k", local=True)) as away:
        away._client = away._client.with_options(max_retries=0)
        with pytest.raises(UnavailableError):
            away.jobs(1)


def test_settings_stand_in_the_method_or_at_the_old_top_level():
    for place in ({"hyperparameters": {"n_epochs": 4, "batch_size": 1}},
                  {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}}}):  # fmt: skip
        assert read_job({**JOB, **place}).hyperparameters.n_epochs == 4
    dpo = read_job({**JOB, "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": "auto"}}}})
    assert (dpo.method, dpo.hyperparameters.beta, dpo.hyperparameters.n_epochs) == ("dpo", 0.2, "auto")
    bare = read_job({**JOB, "method": {"type": "reinforcement"}, "hyperparameters": None, "metadata": None})
    assert (bare.method, bare.metadata) == ("reinforcement", {})


def test_a_job_of_another_form_is_one_sentence():
    with pytest.raises(UnavailableError, match="training_file"):
        read_job({**JOB, "training_file": None})
