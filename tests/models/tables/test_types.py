"""The column types keep values that a database would refuse or bend."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy.exc import StatementError

from celora.models.scope.scope import Scope
from celora.models.tables import Event, Job, Tenant


def test_times_come_back_aware_and_in_utc(database):
    berlin = datetime(2026, 11, 24, 12, 0, tzinfo=timezone(timedelta(hours=1)))
    with database.session(Scope.everything) as session:
        session.add(Tenant(name="acme", created_at=berlin))
    with database.session(Scope.everything) as session:
        stored = session.get_one(Tenant, "acme").created_at
    assert stored == berlin
    assert stored.tzinfo is UTC


def test_a_naive_time_is_refused(database):
    with pytest.raises(StatementError, match="naive"), database.session(Scope.everything) as session:
        session.add(Tenant(name="acme", created_at=datetime(2026, 11, 24)))  # noqa: DTZ001  (the point)


def test_text_that_no_database_takes_is_made_storable(record):
    record.new()
    record.record_event("job", 1, "info", "note", "a\x00b\ud800c", {"text\x00": ["a\x00b\ud800c"]})
    with record.database.session(Scope.everything) as session:
        row = session.query(Event).filter_by(kind="note").one()
    assert row.message == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert row.data == {"text\N{REPLACEMENT CHARACTER}": [row.message]}


def test_json_never_holds_nan(record):
    record.new()
    record.record_event("job", 1, "info", "note", "loss", {"loss": float("nan"), "list": [float("inf"), 1.5], "n": 1})
    with record.database.session(Scope.everything) as session:
        row = session.query(Event).filter_by(kind="note").one()
    assert row.data == {"loss": None, "list": [None, 1.5], "n": 1}


def test_a_json_column_without_a_value_is_null_in_sql(record):
    record.new()
    with record.database.session(Scope.everything) as session:
        assert session.query(Job).filter(Job.result.is_(None)).count() == 1
