"""A record of two tenants."""

import pytest
from two_tenants import OURS, THEIRS, rows_of

from celora.models.scope.scope import Scope


@pytest.fixture
def two(database):
    """A record in which two tenants have the same things of every kind."""
    for tenant in (OURS, THEIRS):
        with database.session(Scope.everything) as session:
            for row in rows_of(tenant):
                session.add(row)
                session.flush()
    return database


@pytest.fixture
def ours(two):
    """A session of the one tenant."""
    with two.session(Scope.of(OURS)) as session:
        yield session
