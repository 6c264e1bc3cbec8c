"""The tables of uploads: a part belongs to an upload, and goes with it."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from celora.models.scope.scope import Scope
from celora.models.tables import Tenant, Upload, UploadPart

AT = datetime(2026, 11, 30, tzinfo=UTC)


def upload(upload_id):
    return Upload(id=upload_id, tenant="acme", filename="a", purpose="fine-tune", size_bytes=1, status="pending",
                  created_at=AT, expires_at=AT)  # fmt: skip


def part(upload_id):
    return UploadPart(id="part_1", upload_id=upload_id, size_bytes=1, uri="u", created_at=AT)


def test_a_part_goes_with_its_upload(database):
    with database.transaction(Scope.everything) as session:
        session.add(Tenant(name="acme", created_at=AT))
        session.flush()
        session.add(upload("upload-1"))
        session.flush()
        session.add(part("upload-1"))
    with database.transaction(Scope.everything) as session:
        session.delete(session.get_one(Upload, "upload-1"))
    with database.session(Scope.everything) as session:
        assert session.scalar(select(func.count()).select_from(UploadPart)) == 0


def test_a_part_of_no_upload_is_refused(database):
    with pytest.raises(IntegrityError), database.transaction(Scope.everything) as session:
        session.add(part("upload-none"))
