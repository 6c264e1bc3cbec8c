"""The scope of whoever reads by a tenant's name: everything, a tenant's own, or a refusal in a sentence."""

import pytest

from celora.errors import NotFoundError
from celora.models.scope.scope import Scope
from celora.services.tenants.limits import set_tenant
from celora.services.tenants.scopes import scope_of, scope_of_known


def test_no_name_is_everything_and_a_name_is_one_tenants_scope(here):
    set_tenant("acme", {})
    assert scope_of(None) == scope_of_known(None) == Scope.everything
    assert scope_of("acme") == scope_of_known("acme") == Scope.of("acme")
    assert scope_of_known("default") == Scope.of("default")


def test_a_tenant_that_was_deleted_can_be_named_where_its_audit_is_read(here):
    assert scope_of("gone") == Scope.of("gone")
    with pytest.raises(NotFoundError, match="no tenant gone"):
        scope_of_known("gone")


@pytest.mark.parametrize("scope", [scope_of, scope_of_known])
def test_the_empty_name_is_no_tenants(here, scope):
    with pytest.raises(NotFoundError, match="the empty name"):
        scope("")
