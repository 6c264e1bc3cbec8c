"""Holds the storage limit of a tenant where bytes come in: the import of a dataset, the upload of a file.

Checkpoints and adapters that a running job writes are counted and never refused; a tenant at its limit starts no new
work instead (``admission``).
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import TenantLimitError
from ...models.tables import Tenant
from ...models.tenants.limits import stored_bytes


def check_storage(session: Session, tenant: str, added_bytes: int) -> None:
    """Check that a tenant may store so many bytes more; two that come at once are counted one after the other.

    Raises:
        TenantLimitError: It may not.
    """
    found = select(Tenant).where(Tenant.name == tenant).with_for_update(key_share=True)
    row = session.scalars(found.execution_options(populate_existing=True)).one_or_none()
    if row is None or row.storage_bytes is None:
        return
    limit, stored = row.storage_bytes, stored_bytes(session, tenant)
    if stored + added_bytes > limit:
        raise TenantLimitError(
            f"tenant {tenant} stores {stored:,} bytes and may store {limit:,}: {added_bytes:,} more have no room.",
            hint="Delete files that are not needed, or ask for more room.",
            facts={"limit": limit, "stored": stored, "added": added_bytes},
        )
