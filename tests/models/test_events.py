"""An event belongs to a job and an attempt, and has the database's time."""

import pytest
from sqlalchemy.exc import IntegrityError

from celora.models.events import record_event
from celora.models.scope.scope import Scope
from celora.models.tables import Event


def test_an_event_of_no_job_is_refused(database):
    with pytest.raises(IntegrityError), database.session(Scope.everything) as session:
        record_event(session, "nobody", 1, "info", "note", "lost")


def test_events_are_numbered_in_their_order(record):
    record.new()
    for kind in ("first", "second"):
        record.record_event("job", 2, "warning", kind, "a sentence", {"n": 1})
    with record.database.session(Scope.everything) as session:
        one, two = session.query(Event).filter(Event.kind != "submitted").order_by(Event.id)
    assert (one.kind, two.kind) == ("first", "second")
    assert (two.attempt, two.level, two.message, two.data) == (2, "warning", "a sentence", {"n": 1})
    assert one.at <= two.at
