"""The home of a trial: its own record and artifacts; what took long to fetch is shared and survives."""

import pytest

from celora.doctor.gpu_test.home import Home
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.settings.settings import get_settings


def test_it_has_a_record_of_its_own_and_is_removed_in_the_end(home):
    with Home(home / "doctor" / "trial") as trial:
        with trial.database.session(Scope.everything) as session:
            assert session.query(Job).count() == 0
        assert (trial.folder / "celora.db").is_file()
        assert not (home / "celora.db").exists()
    assert list((home / "doctor").iterdir()) == []


def test_fetched_bases_are_shared_and_survive_it(home):
    weights = get_settings().cache / "converted" / "base" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_text("fetched for an hour")
    (home / "celora.toml").write_text("lease_s = 7")
    with Home(home / "trial") as trial:
        assert (trial.cache / "converted" / "base" / "weights").read_text() == "fetched for an hour"
        assert (trial.folder / "celora.toml").read_text() == "lease_s = 7"
        assert not (trial.cache / "quantized").exists()
    assert weights.read_text() == "fetched for an hour"
    assert (home / "celora.toml").is_file()


def test_its_environment_reaches_nothing_of_the_installation(home, monkeypatch):
    monkeypatch.setenv("CELORA_BROKER_URL", "redis://:word@production/0")
    monkeypatch.setenv("CELORA_DATABASE_URL", "postgresql://production/celora")
    monkeypatch.setenv("CELORA_OFFLINE", "true")
    made = Home(home / "trial").environment()
    assert [value for name, value in made.items() if name.startswith("CELORA_") and "production" in value] == []
    assert made["CELORA_BROKER_URL"] == "memory://"
    assert made["CELORA_OFFLINE"] == "true", "other settings are the installation's"
    assert made["CELORA_HOME"] == str(home / "trial")


def test_it_is_kept_where_asked(home):
    with Home(home / "trial") as trial:
        trial.keep = True
    assert (home / "trial" / "celora.db").is_file()


def test_a_folder_that_exists_is_refused_and_left_alone(home):
    (home / "trial" / "cache").mkdir(parents=True)
    with pytest.raises(FileExistsError), Home(home / "trial"):
        pass
    assert (home / "trial" / "cache").is_dir()
