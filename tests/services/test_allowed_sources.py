"""What an installation's settings let a job fetch its rows from."""

import pytest

from celora.errors import DataError, SettingsError
from celora.services.job_checks import check_spec
from celora.settings.settings import load_settings

SPEC = {"base_model": "smollm2-135m-instruct"}


def test_an_allowed_source_passes_the_door_and_no_other(home, monkeypatch):
    monkeypatch.setenv("CELORA_ALLOWED_SCHEMES", '["https", "s3", "hub"]')
    monkeypatch.setenv("CELORA_ALLOWED_HOSTS", '["data.example.org", "team-*"]')
    settings = load_settings()
    held_out = {"near": "s3://team-a/near.jsonl.gz", "far": "hub:openai/gsm8k?config=main&split=test"}
    spec = check_spec({**SPEC, "dataset": "https://data.example.org/rows.csv", "eval_dataset": held_out}, settings)
    assert (spec.dataset, spec.eval_dataset) == ("https://data.example.org/rows.csv", held_out)
    for source in ("https://other.example.org/rows.csv", "s3://mine/rows.csv", "gs://team-a/rows.csv"):
        with pytest.raises(DataError, match="not allowed on this installation"):
            check_spec({**SPEC, "dataset": source}, settings)


def test_nothing_but_local_files_passes_unless_it_is_allowed(home):
    for source in ("https://data.example.org/rows.csv", "s3://team-a/rows.csv", "hub:openai/gsm8k"):
        with pytest.raises(DataError, match="CELORA_ALLOWED_SCHEMES"):
            check_spec({**SPEC, "dataset": source}, load_settings())


def test_a_mapping_of_columns_is_checked_at_the_door(home):
    dataset = {**SPEC, "dataset": "/data/rows.csv"}
    assert check_spec({**dataset, "columns": {"prompt": "q", "completion": "a"}}, load_settings()).columns
    with pytest.raises(SettingsError, match="columns: 'colour' is no name"):
        check_spec({**dataset, "columns": {"colour": "q"}}, load_settings())
