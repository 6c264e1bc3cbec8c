"""Sets and removes secrets, with an audit row that names the secret and never its value."""

from ...models.database import get_database
from ...models.scope.scope import Scope
from ...models.tenants.audit import current_actor, record_audit
from ...models.tenants.limits import check_tenant_name
from ...settings.secrets import INSTALLATION, Secrets
from ...settings.settings import get_settings


def set_secret(name: str, value: str, *, tenant: str = INSTALLATION) -> None:
    """Sets or replaces a secret of a tenant; those of the tenant ``default`` are the installation's.

    Raises:
        SettingsError: The name cannot name an environment variable, or the value is empty or has a line break.
    """
    secrets = Secrets(get_settings().home, check_tenant_name(tenant))
    with get_database().transaction(Scope.of(tenant)) as session:
        known = {"set": True} if secrets.get(name) is not None else None
        record_audit(session, current_actor(), "secret.set", name, known, {"set": True}, tenant=tenant)
        secrets.set(name, value)


def remove_secret(name: str, *, tenant: str = INSTALLATION) -> None:
    """Removes a secret of a tenant.

    Raises:
        NotFoundError: No secret has that name.
    """
    secrets = Secrets(get_settings().home, check_tenant_name(tenant))
    with get_database().transaction(Scope.of(tenant)) as session:
        record_audit(session, current_actor(), "secret.remove", name, {"set": True}, None, tenant=tenant)
        secrets.remove(name)


def list_secrets(*, tenant: str = INSTALLATION) -> list[str]:
    """Lists the names of a tenant's secrets."""
    return Secrets(get_settings().home, check_tenant_name(tenant)).names()
