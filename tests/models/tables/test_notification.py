"""The rows of notifications go with what they belong to: deliveries with their receiver, both with their job."""

import pytest
from sqlalchemy import delete, func, select
from two_tenants import AT, OURS, new_job, rows_of

from celora.models.scope.scope import Scope
from celora.models.tables import Delivery, Job, Receiver


@pytest.fixture
def session(database):
    with database.transaction(Scope.everything) as session:
        for row in rows_of(OURS):
            session.add(row)
            session.flush()
        yield session


def count(session, table):
    return session.scalar(select(func.count()).select_from(table))


def test_a_deleted_receiver_takes_its_deliveries(session):
    session.execute(delete(Receiver))
    assert count(session, Delivery) == 0


def test_a_deleted_job_takes_what_is_about_it_alone(session):
    session.add(new_job(OURS, "job-2"))
    session.flush()
    session.add(Receiver(id="r-2", tenant=OURS, kind="webhook", name="two", url="u", notices=[], job_id="job-2",
                         sealed="s", hint="", created_at=AT, updated_at=AT))  # fmt: skip
    session.flush()
    session.execute(delete(Job).where(Job.id == "job-2"))
    assert session.scalars(select(Receiver.id)).all() == [f"r-{OURS}"]
    assert count(session, Delivery) == 1
