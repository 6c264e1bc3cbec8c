"""The settings: order of their sources, and every kind of fault as one sentence."""

import pytest
from pydantic import ValidationError

from celora.errors import SettingsError
from celora.settings.settings import GpuOverride, Settings, get_settings, home_directory, load_settings


def test_the_environment_comes_before_the_running_installation_and_the_file(home, monkeypatch):
    (home / "celora.toml").write_text("lease_s = 1\ntick_s = 1\nclaim_s = 1")
    (home / "celora.env").write_text("CELORA_LEASE_S=2\nCELORA_TICK_S=2\n")
    monkeypatch.setenv("CELORA_LEASE_S", "3")
    made = load_settings()
    assert (made.lease_s, made.tick_s, made.claim_s, made.late_s) == (3, 2, 1, 300)
    assert load_settings(running=False).tick_s == 1
    assert load_settings(lease_s=4).lease_s == 4


def test_places_follow_from_the_home(home):
    made = load_settings()
    assert made.database == f"sqlite:///{home}/celora.db"
    assert made.artifacts == f"file://{home}/artifacts"
    assert (made.cache, made.scratch, made.logs) == (home / "cache", home / "scratch", home / "logs")
    named = load_settings(database_url="sqlite:////x.db", artifact_root="s3://bucket")
    assert (named.database, named.artifacts) == ("sqlite:////x.db", "s3://bucket")


@pytest.mark.parametrize(
    ("named", "found"), [("relative", "{cwd}/relative"), ("~/mine", "{user}/mine"), ("", "{user}/.celora")]
)
def test_the_home_is_absolute(tmp_path, monkeypatch, named, found):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("CELORA_HOME", named)
    assert str(home_directory()) == found.format(cwd=tmp_path, user="/home/ada")


def test_settings_are_read_once_and_cannot_change(home, monkeypatch):
    assert get_settings() is get_settings()
    with pytest.raises(ValidationError):
        get_settings().lease_s = 3


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CELORA_LEASE_S", "soon", "lease_s"),
        ("CELORA_LEASE_S", "0", "lease_s: Input should be greater than 0"),
        ("CELORA_LEASE_S", "inf", "lease_s: Input should be a finite number"),
        ("CELORA_KEEP_BASE_DAYS", "nan", "keep_base_days: Input should be a finite number"),
        ("CELORA_PREP_SLOTS", "1.5", "prep_slots"),
        ("CELORA_PROFILE", "prod", "profile: Input should be 'local' or 'production'"),
        ("CELORA_FLOWER_AUTH", "no-colon", "flower_auth"),
        ("CELORA_ALLOWED_BASES", "a,b", 'error parsing value for field "allowed_bases"'),
        ("CELORA_GPUS", "[", 'error parsing value for field "gpus"'),
        ("CELORA_GPUS__T4__MEMORY_GIB", "-1", "gpus.t4.memory_gib: Input should be greater than 0"),
        ("CELORA_GPUS__T4__PRICE_PER_HOUR", "-1", "gpus.t4.price_per_hour"),
        ("CELORA_GPUS__T4__MEMORY", "1", "gpus.t4.memory: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_value_is_told_by_its_name(home, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert words in refused.value.message
    assert refused.value.hint


def test_a_wrong_value_is_not_repeated(home, monkeypatch):
    monkeypatch.setenv("CELORA_FLOWER_AUTH", "a-secret-without-a-colon")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "a-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("celora.toml", b"lease_s = = 3", "is no TOML"),
        ("celora.toml", b'profile = "\xff"', "is not UTF-8"),
        ("celora.env", b"CELORA_PROFILE=\xff", "is not UTF-8"),
        ("celora.toml", b'lease_s = "long"', "lease_s"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(home, name, content, words):
    (home / name).write_bytes(content)
    with pytest.raises(SettingsError, match=words) as refused:
        load_settings()
    assert "celora.toml" in f"{refused.value}"


def test_a_table_of_the_file_and_a_variable_change_one_gpu_together(home, monkeypatch):
    (home / "celora.toml").write_text("[gpus.t4]\nprice_per_hour = 0.25\n")
    monkeypatch.setenv("CELORA_GPUS__T4__MEMORY_GIB", "15")
    assert load_settings().gpus == {"t4": GpuOverride(price_per_hour=0.25, memory_gib=15)}


def test_a_stranger_in_the_environment_changes_no_gpu(home, monkeypatch):
    (home / "celora.toml").write_text("[gpus.t4]\nmemory_gib = 15\n")
    for name, value in {"MATCH": '["other"]', "PRICE_PER_HOUR": "77", "MEMORY_GIB": "1"}.items():
        monkeypatch.setenv(name, value)
    assert load_settings().gpus == {"t4": GpuOverride(memory_gib=15)}


def test_every_setting_has_a_description():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
