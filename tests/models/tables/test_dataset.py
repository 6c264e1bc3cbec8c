"""A name's versions are unique, and so is the content of a name."""

import pytest
from sqlalchemy.exc import IntegrityError

from celora.models import datasets
from celora.models.scope.scope import Scope
from celora.models.tables import Dataset

FACTS = {"tenant": "acme", "name": "faq", "uri": "u", "size_bytes": 3_000_000_000}


@pytest.mark.parametrize("same", [{"version": 1, "sha256": "b" * 64}, {"version": 2, "sha256": "a" * 64}])
def test_a_version_and_a_content_of_a_name_stand_once(database, same):
    with database.transaction(Scope.everything) as session:
        first = datasets.register(session, **FACTS, sha256="a" * 64)
        assert first.version == 1
    with pytest.raises(IntegrityError), database.transaction(Scope.everything) as session:
        session.add(Dataset(**FACTS, **same, created_at=first.created_at))
