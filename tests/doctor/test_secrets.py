"""The doctor's judgements about secrets: no finding ever holds a value."""

import tempfile
from pathlib import Path

import pytest

from celora.doctor import secrets
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job
from celora.settings.secrets import Secrets
from celora.settings.settings import load_settings

VALUE = "hf_a-value-that-nobody-may-see"


@pytest.fixture
def open_folder():
    """A folder that everybody may enter, with all its parents; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "readable"),
    [(0o755, 0o644, True), (0o755, 0o640, False), (0o700, 0o644, False), (0o750, 0o604, False), (0o711, 0o604, True)],
)
def test_a_file_is_readable_by_all_where_it_and_its_folder_admit_everybody(
    open_folder, folder_mode, file_mode, readable
):
    path = open_folder / "secrets.json"
    path.touch()
    path.chmod(file_mode)
    open_folder.chmod(folder_mode)
    assert secrets.readable_by_all(path) is readable


def test_a_link_is_judged_by_the_file_that_it_names(open_folder, tmp_path):
    target = tmp_path / "secret"
    target.touch(mode=0o644)
    tmp_path.chmod(0o700)
    (open_folder / "link").symlink_to(target)
    assert secrets.readable_by_all(open_folder / "link") is False


@pytest.mark.parametrize(("content", "failed"), [("lease_s = 90", False), ('broker_url = "redis://:w@h"', True)])
def test_a_celora_toml_counts_as_secret_where_it_holds_a_url(open_folder, content, failed):
    toml = open_folder / "celora.toml"
    toml.write_text(content)
    toml.chmod(0o644)
    found = secrets.files(open_folder)
    assert (found.level == "fail", str(toml) in found.found) == (failed, failed)


def test_mounted_secrets_are_looked_at_too(home, open_folder, monkeypatch):
    (open_folder / "celora_database_url").touch(mode=0o644)
    monkeypatch.setenv("CELORA_SECRETS_DIR", str(open_folder))
    found = secrets.files(home)
    assert (found.level, found.fix) == ("fail", f"Run `chmod o-rwx {open_folder}/celora_database_url`.")


def test_names_are_shown_and_values_are_not(home, monkeypatch):
    for name in secrets.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert "none is set" in secrets.names(home).found
    Secrets(home).set("MY_TOKEN", VALUE)
    monkeypatch.setenv("HF_TOKEN", VALUE)
    assert secrets.names(home).found == "set: HF_TOKEN, MY_TOKEN"


@pytest.mark.parametrize(
    ("login", "unlocked", "level", "words"),
    [
        ("", "", "ok", "makes a login up"),
        ("ada:a-long-random-word", "", "ok", "set, user ada"),
        ("ada:a-long-random-word", "no", "ok", "set, user ada"),
        ("ada:short", "", "warn", "the user ada has a password of fewer than 12 letters"),
        ("a-long-user-name:a-long-user-name", "", "warn", "anybody would try first"),
        ("ada:a-long-random-word", "On", "fail", "FLOWER_UNAUTHENTICATED_API"),
    ],
)
def test_flowers_login_is_judged(login, unlocked, level, words):
    found = secrets.flower(login, unlocked=unlocked)
    assert (found.level, words in found.found) == (level, True)
    assert "random-word" not in found.found
    assert bool(found.fix) == (level != "ok")


@pytest.mark.parametrize(
    ("profile", "url", "level"),
    [
        ("local", "redis://:short@host:1/0", "ok"),
        ("production", "redis://:short@host:1/0", "fail"),
        ("production", "redis://:a-long-random-word@host:1/0", "ok"),
    ],
)
def test_the_production_profile_is_tried(home, profile, url, level):
    settings = load_settings(
        profile=profile, broker_url=url, database_url="sqlite:////x.db", flower_auth="ada:a-long-random-word"
    )
    assert secrets.profile(settings).level == level


def test_a_secret_that_an_unfinished_job_needs_must_be_here(database, home, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    spec = {"base_model": "b", "dataset": "/d.jsonl"}
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id="plain", spec=parse_spec(spec))
        assert secrets.wanted(session, load_settings()).found == "no job needs one"
        for job_id in ("first", "second"):
            accept.submit(session, job_id=job_id, spec=parse_spec({**spec, "report_to": ["wandb"]}))
        session.flush()
        found = secrets.wanted(session, load_settings())
        assert (found.level, "(2 in all)" in found.found) == ("fail", True)
        assert found.fix == "Run `celora secret set WANDB_API_KEY`."
        Secrets(home).set("WANDB_API_KEY", VALUE)
        assert secrets.wanted(session, load_settings()).level == "ok"
        Secrets(home).remove("WANDB_API_KEY")
        for job_id in ("first", "second"):
            session.get_one(Job, job_id).status = "failed"
        session.flush()
        assert secrets.wanted(session, load_settings()).level == "ok"


def test_a_secrets_file_that_cannot_be_read_hides_no_other_finding(home):
    (home / "secrets.json").write_text("[")
    found = {finding.check: finding for finding in secrets.secrets(load_settings())}
    assert (found["secrets.names"].level, "can't be read" in found["secrets.names"].found) == ("fail", True)
    assert (found["secrets.files"].level, found["profile"].level) == ("ok", "ok")
    assert "flower.login" in found
