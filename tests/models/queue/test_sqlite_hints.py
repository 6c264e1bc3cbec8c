"""Hints: SQLite uses the index that a query names, and PostgreSQL never sees the hint."""

from sqlalchemy import event, select

from celora.models.queue.waiting import BY_AGE, count_by_queue, in_queue
from celora.models.scope.scope import Scope
from celora.models.tables import Job


def test_the_hint_stands_behind_the_table_in_sqlite_alone(database):
    seen = []

    def note(*args):
        seen.append(args[2])

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.session(Scope.everything) as session:
            hinted = select(Job.id).where(in_queue()).with_hint(Job, BY_AGE, "sqlite")
            assert session.scalars(hinted).all() == []
            assert count_by_queue(session) == []
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    sqlite = database.engine.dialect.name == "sqlite"
    assert sum(BY_AGE in " ".join(words.split()) for words in seen) == (2 if sqlite else 0)
