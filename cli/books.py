"""Defines ``celora usage`` and ``celora audit``: the use of tenants by month, and who changed what."""

import csv
import sys
from typing import Annotated, Any

import typer

from ..errors import SettingsError
from .open_record import record
from .output import Json, console, money, print_json, table
from .output import as_json as json_of

Of = Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)]


def usage(
    *,
    tenant: Of = None,
    month: Annotated[str | None, typer.Option(help="A UTC month, such as 2026-11.", show_default=False)] = None,
    by: Annotated[str, typer.Option(help="Split by user, model, or user,model.", show_default=False)] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_json: Json = False,
) -> None:
    """Show the device time and money that tenants used and hold, month by month (UTC).

    Example: `celora usage --tenant team-a --month 2026-11 --by user,model`
    """
    from ..services.tenants import books  # noqa: PLC0415  (only this command needs it)

    if as_csv and as_json:
        raise SettingsError("--csv and --json exclude each other.", hint="Give one.")
    groups = [word.strip() for word in by.split(",") if word.strip()]
    record()
    rows = [
        {
            "tenant": row.tenant, "month": row.month,
            **({"user": row.user} if "user" in groups else {}), **({"model": row.model} if "model" in groups else {}),
            "gpu_minutes": row.spent.minutes, "cost": row.spent.cost,
            **({"jobs": row.jobs} if groups else
               {"held_gpu_minutes": row.held.minutes, "held_cost": row.held.cost}),
        }
        for row in books.read_usage(tenant=tenant, month=month, by=groups)
    ]  # fmt: skip
    if as_json:
        print_json(rows)
    elif as_csv:
        _print_csv(rows)
    elif rows:
        shown = [[_cell(name, value) for name, value in row.items()] for row in rows]
        console().print(table([name.replace("_", " ") for name in rows[0]], shown))
    else:
        console().print("Nothing was used.")


def audit(
    *,
    tenant: Of = None,
    target: Annotated[
        str | None,
        typer.Option("--object", help="Only changes of this object: a name, an id.", show_default=False),
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, or a kind: job, key, tenant.", show_default=False)
    ] = None,
    before: Annotated[int | None, typer.Option(help="Only rows before this number.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The largest number of rows.")] = 50,
    as_json: Json = False,
) -> None:
    """Show who changed what, the newest first; the rows can be neither changed nor deleted.

    Example: `celora audit --tenant team-a --action key`
    """
    from ..services.tenants import books  # noqa: PLC0415  (only this command needs it)

    record()
    rows = books.read_audit(tenant=tenant, target=target, action=action, before_id=before, limit=limit)
    if as_json:
        print_json([vars(row) for row in rows])
        return
    columns = ("number", "at", "tenant", "who", "action", "object", "before", "after")
    lines = [(row.id, row.at, row.tenant, row.actor, row.action, row.object, _facts(row.before), _facts(row.after))
             for row in rows]  # fmt: skip
    console().print(table(columns, lines) if rows else "No change was recorded.")


def _print_csv(rows: list[dict[str, Any]]) -> None:
    """Print rows as CSV; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    if not rows:
        return
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _harmless(value) for name, value in row.items()})


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _cell(name: str, value: Any) -> Any:
    return money(value) if name.endswith("cost") else round(value, 2) if isinstance(value, float) else value


def _facts(facts: dict[str, Any] | None) -> str:
    return "" if facts is None else json_of(facts)
