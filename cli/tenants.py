"""Finds the tenant of a name that a person gave without ``--tenant``.

A name belongs to a tenant, but most installations have one tenant, or names that only one of them uses. The name of
the tenant ``default`` takes precedence, as it always did; a name that one other tenant alone has needs no ``--tenant``.
"""

from collections.abc import Iterable
from typing import Annotated

import typer

from ..errors import NotFoundError
from ..models.queries import Named, get_tenant, tenants_with
from ..models.scope.scope import Scope
from .open_record import record

DEFAULT = "default"

Tenant = Annotated[
    str | None, typer.Option(help="Whose it is; needed where several tenants have the name.", show_default=False)
]


def tenant_of(tenant: str | None, names: Iterable[str], *tables: type[Named]) -> str:
    """Return the tenant that a person named, or the one that has one of the names.

    Args:
        tenant: As given by ``--tenant``.
        names: The names to look for, the first that anybody has decides; a version behind ``@`` is left out.
        tables: What the names may be.

    Raises:
        NotFoundError: There is no such tenant; or several tenants have the name, and ``default`` is none of them.
    """
    database = record()
    if tenant is not None:
        return _existing(tenant)
    with database.session(Scope.everything) as session:
        for name in names:
            found = tenants_with(session, name.partition("@")[0], *tables)
            if DEFAULT in found:
                return DEFAULT
            if len(found) > 1:
                raise NotFoundError(
                    f"{name} is a name of the tenants {', '.join(found)}.", hint="Say which: --tenant NAME."
                )
            if found:
                return found[0]
    return DEFAULT


def scope_of(tenant: str | None) -> Scope:
    """Return the scope of a command that reads: the tenant that a person named, else everything.

    Raises:
        NotFoundError: There is no such tenant.
    """
    return Scope.everything if tenant is None else Scope.of(_existing(tenant))


def _existing(tenant: str) -> str:
    with record().session(Scope.everything) as session:
        return get_tenant(session, tenant)


def tenant_option(tenant: str) -> str:
    """Return the option to append to a command that is printed for this tenant; empty for ``default``."""
    return "" if tenant == DEFAULT else f" --tenant {tenant}"
