"""Gives whoever reads by the name of a tenant the scope of that tenant; a name that nobody has is refused."""

from ...errors import NotFoundError
from ...models.database import get_database
from ...models.queries import LIST_OF_TENANTS, get_tenant
from ...models.scope.scope import Scope


def scope_of(tenant: str | None) -> Scope:
    """Return the scope of a tenant, or of all; the tenant may be one that was deleted, whose audit stays.

    Raises:
        NotFoundError: The name is empty.
    """
    if tenant is None:
        return Scope.everything
    if not tenant:
        raise NotFoundError("the empty name is no tenant's.", hint=LIST_OF_TENANTS)
    return Scope.of(tenant)


def scope_of_known(tenant: str | None) -> Scope:
    """Return the scope of a tenant that exists, or of all.

    Raises:
        NotFoundError: There is no such tenant.
    """
    scope = scope_of(tenant)
    if tenant is not None:
        with get_database().session(Scope.everything) as session:
            get_tenant(session, tenant)
    return scope
