"""``celora migrate-data``: the whole record into a new database."""

import pytest
from sqlalchemy import select

from celora.cli.migrate_data import _roots
from celora.errors import SettingsError
from celora.models.database import Database, get_database
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job


def test_the_record_moves_to_another_database(celora, registered, tmp_path):
    registered(status="offline")
    with get_database().transaction(Scope.everything) as session:
        accept.submit(session, job_id="one", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
    target = f"sqlite:///{tmp_path}/new.db"
    result = celora("migrate-data", get_database().url.render_as_string(hide_password=False), target)
    assert result.exit_code == 0, result.stderr
    assert "job            1" in result.stdout
    assert "4 rows are in" in result.stdout  # tenant, job, its event, worker
    moved = Database(target)
    with moved.session(Scope.everything) as session:
        assert list(session.scalars(select(Job.id))) == ["one"]
    moved.dispose()


def test_a_move_under_running_workers_is_refused_in_a_sentence(celora, registered, tmp_path):
    registered()
    result = celora("migrate-data", str(get_database().url), f"sqlite:///{tmp_path}/new.db")
    assert result.exit_code == 64
    assert "Stop celora first" in result.stderr


@pytest.mark.parametrize(
    ("given", "roots"),
    [
        ("file:///old=s3://bucket/new", ("file:///old", "s3://bucket/new")),
        ("file:///old/=s3://bucket/new/", ("file:///old", "s3://bucket/new")),
        ("s3://b=gs://c/x=y", ("s3://b", "gs://c/x=y")),
    ],
)
def test_the_artifacts_old_and_new_root_are_named(given, roots):
    assert _roots(given) == roots


@pytest.mark.parametrize("given", ["", "=", "/old=/new", "file:///old", "file:///old=/new", "/old=s3://new"])
def test_what_names_no_two_roots_is_refused(given):
    with pytest.raises(SettingsError, match="names no two roots") as refused:
        _roots(given)
    assert "file:///old/folder=s3://bucket/prefix" in refused.value.hint
