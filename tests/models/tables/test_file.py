"""The table of files: an id is unique, and a file has an owner that exists."""

from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import IntegrityError

from celora.models.scope.scope import Scope
from celora.models.tables import File, Tenant

AT = datetime(2026, 11, 30, tzinfo=UTC)
FACTS = {"filename": "a", "purpose": "fine-tune", "size_bytes": 1, "sha256": "0" * 64, "uri": "u", "status": "uploaded"}


def file(**values):
    return File(**{"id": "file-1", "tenant": "acme", "created_at": AT, "check_sent_at": AT, **FACTS, **values})


def test_a_file_begins_without_a_check(database):
    with database.transaction(Scope.everything) as session:
        session.add(Tenant(name="acme", created_at=AT))
        session.flush()
        session.add(file())
    with database.session(Scope.everything) as session:
        row = session.get_one(File, "file-1")
        assert (row.checks, row.checked_until, row.deleted_at) == (0, None, None)


def test_a_file_without_an_owner_is_refused(database):
    with pytest.raises(IntegrityError), database.transaction(Scope.everything) as session:
        session.add(file(tenant="nobody"))
