"""Defines ``celora key``, which makes, lists, rotates and revokes the keys of tenants.

A key is printed once, by the command that makes it, and is kept nowhere.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingsError
from .open_record import record
from .output import Json, console, print_json, say, table

if TYPE_CHECKING:
    from ..services.tenants.keys import NewKey

app = typer.Typer(
    no_args_is_help=True,
    help="Keys of tenants, for the HTTP interface.\n\nExample: `celora key create --tenant team-a --scopes read`",
)
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, as `celora key list` shows it.")]
Expires = Annotated[
    str | None, typer.Option(help="When it ends: 90d, 12h, or a time such as 2027-01-31.", show_default=False)
]
Of = Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)]


@app.command("create")
def create(
    *,
    tenant: Annotated[str, typer.Option(help="The tenant that the key acts for; made where it is missing.")],
    scopes: Annotated[str, typer.Option(help="Some of read, submit, admin; commas between.")] = "read,submit",
    name: Annotated[str, typer.Option(help="A name for lists.")] = "",
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Make a key for a tenant and print it, the only time that it is shown.

    Example: `celora key create --tenant team-a --scopes read,submit --expires 90d`
    """
    from ..services.tenants import keys  # noqa: PLC0415  (only this group needs it)

    ends = _end(expires)
    record()
    made = keys.create_key(tenant, scopes=_words(scopes), name=name, expires_at=ends)
    _show(made, as_json=as_json)


@app.command("list")
def list_(*, tenant: Of = None, as_json: Json = False) -> None:
    """List keys, the newest first; the keys themselves are never shown.

    Example: `celora key list --tenant team-a`
    """
    from ..services.tenants import keys  # noqa: PLC0415  (only this group needs it)

    record()
    found = keys.list_keys(tenant)
    if as_json:
        print_json([vars(view) for view in found])
        return
    columns = ("id", "tenant", "name", "begins", "scopes", "made", "ends", "last used", "revoked")
    rows = [
        (key.id, key.tenant, key.name, f"{key.shown}…", ",".join(key.scopes), key.created_at, key.expires_at,
         key.last_used_at, key.revoked_at)
        for key in found
    ]  # fmt: skip
    console().print(table(columns, rows) if found else "There is no key. Make one: celora key create --tenant NAME")


@app.command("revoke")
def revoke(key: KeyId, *, tenant: Of = None, as_json: Json = False) -> None:
    """Revoke a key at once.

    Example: `celora key revoke key_0123456789abcdef`
    """
    from ..services.tenants import keys  # noqa: PLC0415  (only this group needs it)

    record()
    view = keys.revoke_key(key, tenant=tenant)
    if as_json:
        print_json({"id": view.id, "tenant": view.tenant, "revoked_at": view.revoked_at})
    else:
        say(f"Key {view.id} of tenant {view.tenant} is revoked.")


@app.command("rotate")
def rotate(
    key: KeyId,
    *,
    keep: Annotated[str, typer.Option(help="How long the old key stays valid: 10m, 24h. [default: not at all]")] = "",
    tenant: Of = None,
    as_json: Json = False,
) -> None:
    """Make a key with the rights of another one, print it, and end the other one.

    Example: `celora key rotate key_0123456789abcdef --keep 24h`
    """
    from ..scheduling.cron import parse_every  # noqa: PLC0415  (only this group needs it)
    from ..services.tenants import keys  # noqa: PLC0415  (only this group needs it)

    keep_s = parse_every(keep) if keep else 0
    record()
    _show(keys.rotate_key(key, tenant=tenant, keep_s=keep_s), as_json=as_json)


def _show(made: "NewKey", *, as_json: bool) -> None:
    if as_json:
        print_json(vars(made))
        return
    say(made.key)
    say(f"Key {made.id} of tenant {made.tenant} ({', '.join(made.scopes)}). It is not shown again.", err=True)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _end(words: str | None) -> datetime | None:
    """Parse the end of a key: an interval from now, or a time, UTC unless it names a zone."""
    if words is None:
        return None
    from ..scheduling.cron import parse_every  # noqa: PLC0415  (only this group needs it)

    try:
        given = datetime.fromisoformat(words)
    except ValueError:
        pass
    else:
        return given if given.tzinfo else given.replace(tzinfo=UTC)
    try:
        return datetime.now(UTC) + timedelta(seconds=parse_every(words))
    except (SettingsError, OverflowError):
        raise SettingsError(
            f"--expires: {words[:40]!r} is no time.", hint="Write 90d, 12h, or a time such as 2027-01-31."
        ) from None
