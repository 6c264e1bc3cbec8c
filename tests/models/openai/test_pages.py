"""A page by age: rows of one moment have an order too, and a cursor is one of the tenant's own rows."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from celora.errors import RequestError
from celora.models.openai.pages import page_by_age
from celora.models.scope.scope import Scope
from celora.models.tables import File, Tenant

AT = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture
def page(database):
    """Reads ids of a page of the tenant ``blue``; three of its five files are of one moment."""
    with database.transaction(Scope.everything) as session:
        session.add_all(Tenant(name=name, created_at=AT) for name in ("blue", "red"))
        session.flush()
        facts = {"filename": "r", "purpose": "fine-tune", "size_bytes": 1, "sha256": "0" * 64, "uri": "u"}
        facts |= {"status": "processed", "check_sent_at": AT}
        for name, minute in (("b", 1), ("a", 1), ("c", 1), ("e", 0), ("d", 2)):
            session.add(File(id=name, tenant="blue", created_at=AT + timedelta(minutes=minute), **facts))
        session.add(File(id="hers", tenant="red", created_at=AT, **facts))

    def read(**how):
        with database.session(Scope.everything) as session:
            wanted = select(File).where(File.tenant == "blue")
            rows, more = page_by_age(session, File, wanted, "blue", **how)
            return "".join(row.id for row in rows), more

    return read


def test_pages_follow_each_other_without_a_gap_in_both_orders(page):
    for order, whole in (("desc", "dcbae"), ("asc", "eabcd")):
        assert page(after=None, limit=9, order=order) == (whole, False)
        found, more, after = "", True, None
        while more:
            ids, more = page(after=after, limit=2, order=order)
            found, after = found + ids, ids[-1]
        assert found == whole


def test_the_row_of_another_tenant_is_no_cursor(page):
    for cursor in ("hers", "none"):
        with pytest.raises(RequestError, match="after is no item") as caught:
            page(after=cursor, limit=2)
        assert caught.value.reason == "invalid_cursor"
