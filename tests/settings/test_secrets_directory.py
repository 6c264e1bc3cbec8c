"""Settings as files: a container's mounted secrets."""

import pytest

from celora.errors import SettingsError
from celora.settings.settings import load_settings


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    made = tmp_path / "secrets"
    made.mkdir()
    (made / "celora_database_url").write_text("postgresql://celora:hidden@record/celora\n")
    monkeypatch.setenv("CELORA_SECRETS_DIR", str(made))
    return made


def test_a_file_is_a_setting_and_its_last_line_break_is_not(folder):
    assert load_settings().database_url == "postgresql://celora:hidden@record/celora"


def test_the_environment_wins_over_a_file_and_a_file_over_celora_toml(folder, home, monkeypatch):
    (home / "celora.toml").write_text('database_url = "sqlite:///from-toml"\nlease_s = 33\n')
    assert load_settings().database_url == "postgresql://celora:hidden@record/celora"
    assert load_settings().lease_s == 33
    monkeypatch.setenv("CELORA_DATABASE_URL", "sqlite:////from/the/environment")
    assert load_settings().database_url == "sqlite:////from/the/environment"


def test_a_folder_that_is_not_there_is_no_default(home, monkeypatch):
    monkeypatch.setenv("CELORA_SECRETS_DIR", "/nowhere/secrets")
    with pytest.raises(SettingsError, match="/nowhere/secrets, which is no folder"):
        load_settings()
