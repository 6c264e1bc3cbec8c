import json

import pytest

from celora.settings.redaction import MASK, Redactor, is_secret, redactor, values_in
from celora.settings.secrets import Secrets
from celora.tuning.prepare import privacy

LETTERS = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0"
SHAPED = [
    f"hf_{LETTERS[:34]}",
    f"sk-{LETTERS[:40]}",
    f"sk-proj-{LETTERS[:10]}_{LETTERS[:20]}-{LETTERS[:8]}",
    f"sk-ant-api03-{LETTERS[:30]}",
    "AKIAIOSFODNN7EXAMPLE",
    f"ghp_{LETTERS[:36]}",
    f"xoxb-{LETTERS[:24]}",
    f"AIza{LETTERS[:35]}",
]


@pytest.mark.parametrize("secret", SHAPED)
def test_what_is_shaped_like_a_token_is_masked_and_the_dataset_check_knows_it_too(secret):
    told = Redactor().text(f"Authorization: Bearer {secret}, retrying")
    assert told == f"Authorization: Bearer {MASK}, retrying"
    assert [kind for kind, *_ in privacy.find(f"a row with {secret} in it")] == ["api key"]


@pytest.mark.parametrize(
    "text",
    [
        "the scheduler sk-fold-2024-training-set-number-3 of scikit-learn",
        "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "hf_internal_testing/tiny-random-LlamaForCausalLM",
        "s3://bucket/jobs/019a2b3c-1111-7000-8000-1234567890ab/attempt-1/adapter",
        "postgresql://celora@/record?host=/run/postgresql",
        "http://127.0.0.1:5555 at 12:30:01, task-risk-management-and-more-words-here",
    ],
)
def test_ordinary_words_paths_and_hashes_are_left_alone(text):
    assert Redactor(["hunter2"]).text(text) == text


def test_a_password_in_a_url_is_masked_whatever_it_is():
    told = Redactor().text("cannot reach redis://:pw@host:6379/0 nor postgresql+psycopg://me:p%40w@db/x")
    assert told == f"cannot reach redis://:{MASK}@host:6379/0 nor postgresql+psycopg://me:{MASK}@db/x"


def test_a_private_key_is_masked_to_its_end():
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"
    assert Redactor().text(f"before\n{key}\nafter") == f"before\n{MASK}\nafter"


def test_known_values_are_masked_also_as_they_stand_in_a_url_and_the_longer_one_first():
    told = Redactor(["correct horse/battery", "correct horse/battery staple"])
    assert told.text("a correct horse/battery staple b") == f"a {MASK} b"
    assert told.text("?key=correct%20horse%2Fbattery") == f"?key={MASK}"


def test_every_text_of_json_data_is_masked_and_nothing_else_changes():
    data = {"rows": [{"text": f"it is {SHAPED[0]}", "n": 1}], "none": None, "share": 0.5, "yes": True}
    masked = Redactor().data(data)
    assert masked == {"rows": [{"text": f"it is {MASK}", "n": 1}], "none": None, "share": 0.5, "yes": True}
    json.dumps(masked)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "x", True),
        ("WANDB_API_KEY", "x", True),
        ("AWS_SECRET_ACCESS_KEY", "x", True),
        ("PGPASSWORD", "x", True),
        ("CELORA_FLOWER_AUTH", "me:x", True),
        ("CELORA_BROKER_URL", "redis://:pw@host/0", True),
        ("CELORA_DATABASE_URL", "sqlite:////var/lib/celora.db", False),
        ("CELORA_SECRETS_DIR", "/run/secrets", False),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token", False),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("SSH_AUTH_SOCK", "/run/agent", False),
        ("HTTPS_PROXY", "http://me:pw@proxy:3128", False),
        ("PATH", "/usr/bin", False),
    ],
)
def test_a_variable_is_a_secret_by_its_name_or_its_url(name, value, secret):
    assert is_secret(name, value) == secret


def test_of_a_url_only_the_password_is_a_secret_and_of_a_login_the_password_too():
    found = values_in(
        {"CELORA_BROKER_URL": "redis://:brokerpw@host/0", "CELORA_FLOWER_AUTH": "me:flowerpw", "LANG": "C"}
    )
    assert found == {"brokerpw", "me:flowerpw", "flowerpw"}


def test_a_process_knows_its_environment_its_settings_and_the_stored_secrets_also_new_ones(home, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "from-the-environment")
    monkeypatch.setenv("CELORA_DATABASE_URL", "postgresql://celora:record-password@db/celora")
    Secrets(home).set("HF_TOKEN", "stored-before")
    said = "from-the-environment record-password stored-before stored-later"
    assert redactor().text(said) == f"{MASK} {MASK} {MASK} stored-later"
    Secrets(home).set("OTHER", "stored-later")
    assert redactor().text(said) == f"{MASK} {MASK} {MASK} {MASK}"
    Secrets(home, "acme").set("OTHER", "a-tenants-own")
    assert redactor().text("a-tenants-own") == MASK


def test_a_damaged_secrets_file_does_not_stop_the_log(home):
    (home / "secrets.json").write_text("{")
    assert redactor().text("still told") == "still told"
