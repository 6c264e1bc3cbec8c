"""Every table has an owner, a parent or the operator, and a scope has a tenant."""

import pytest
from two_tenants import LIMITED, OURS

from celora.models.scope.scope import CHILDREN, OPERATORS, OWNED, Scope, ScopeError
from celora.models.tables import (
    Table,
)


def test_every_table_stands_in_exactly_one_list():
    mapped = [mapper.class_ for mapper in Table.registry.mappers]
    assert sorted(one.__name__ for one in (*LIMITED, *OPERATORS)) == sorted(one.__name__ for one in mapped)
    assert {one for one in mapped if hasattr(one, "tenant")} <= set(OWNED)
    assert {one for one in mapped if hasattr(one, "job_id")} <= {*CHILDREN, *OWNED}


def test_a_scope_names_its_tenant():
    assert Scope.of(OURS).tenant == OURS
    assert Scope.everything.tenant is None
    with pytest.raises(ScopeError, match="needs the name"):
        Scope.of("")
