"""Which secrets a trainer finds in its environment."""

import pytest

from celora.models.spec import parse_spec
from celora.settings.secrets import Secrets
from celora.settings.settings import get_settings
from celora.workers.trainer.environment import inherited, of_its_threads, of_this_user, secrets_for

PLANTED = {
    "HF_TOKEN": "token-of-the-hub",
    "WANDB_API_KEY": "key-of-the-tracker",
    "AWS_SECRET_ACCESS_KEY": "key-of-the-bucket",
    "CELORA_BROKER_URL": "redis://:of-the-broker@host/0",
    "CELORA_DATABASE_URL": "postgresql://celora:of-the-record@db/celora",
}


@pytest.fixture
def planted(home, monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return home


def spec(home, **fields):
    return parse_spec({"base_model": str(home), "dataset": "/data/rows.jsonl", **fields})


def test_a_trainer_inherits_no_secret_and_everything_else(planted, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    found = inherited()
    assert set(PLANTED) & set(found) == set()
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert found["CELORA_HOME"] == str(planted)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, set()),
        ({"base_model": "smollm2-135m-instruct"}, set()),
        ({"base_model": "/models/a.gguf"}, set()),
        ({"base_model": "owner/gated"}, {"HF_TOKEN"}),
        ({"dataset": "hub:owner/rows"}, {"HF_TOKEN"}),
        ({"report_to": ["wandb"]}, {"WANDB_API_KEY"}),
        ({"dataset": "s3://bucket/rows.jsonl"}, {"AWS_SECRET_ACCESS_KEY"}),
        ({"eval_dataset": {"held out": "s3://bucket/rows.jsonl"}}, {"AWS_SECRET_ACCESS_KEY"}),
    ],
)
def test_a_jobs_trainer_gets_the_secrets_that_its_job_asks_for(planted, fields, names):
    assert set(secrets_for(get_settings(), spec(planted, **fields))) == names


def test_a_stored_secret_goes_before_the_workers_own(planted):
    Secrets(planted).set("HF_TOKEN", "stored")
    assert secrets_for(get_settings(), spec(planted, base_model="owner/gated")) == {"HF_TOKEN": "stored"}


def test_another_tenants_job_gets_its_own_secrets_and_those_that_are_shared_by_name(planted, monkeypatch):
    theirs = spec(planted, base_model="owner/gated", report_to=["wandb"], tenant="acme")
    Secrets(planted).set("WANDB_API_KEY", "stored")
    assert secrets_for(get_settings(), theirs) == {}
    Secrets(planted, "acme").set("HF_TOKEN", "acmes")
    Secrets(planted, "other").set("WANDB_API_KEY", "others")
    assert secrets_for(get_settings(), theirs) == {"HF_TOKEN": "acmes"}
    monkeypatch.setenv("CELORA_SHARED_SECRETS", '["WANDB_API_KEY", "HF_TOKEN"]')
    get_settings.cache_clear()
    assert secrets_for(get_settings(), theirs) == {"HF_TOKEN": "acmes", "WANDB_API_KEY": "stored"}


def test_a_command_in_the_foreground_passes_on_its_users_secrets_and_not_the_installations(planted):
    assert set(of_this_user()) & set(PLANTED) == {"HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"}


def test_a_trainers_threads_sleep_while_they_wait_unless_the_worker_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert of_its_threads(0)["OMP_WAIT_POLICY"] == "passive"
    assert "OMP_NUM_THREADS" not in of_its_threads(0)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    found = of_its_threads(3)
    assert (found["OMP_WAIT_POLICY"], found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("active", "3", "3")
