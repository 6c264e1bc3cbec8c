"""Defines ``celora tenant``, which sets and shows the limits of tenants.

Unusual: a limit is a number or the word ``none``, which lifts it; an option that is not given changes nothing.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SettingsError
from ..models.scope.scope import Scope
from ..settings.settings import get_settings
from .open_record import record
from .output import Json, console, money, print_json, say, size, table

if TYPE_CHECKING:
    from ..services.tenant_deletion import Holdings

app = typer.Typer(
    no_args_is_help=True,
    help="Tenants and their limits.\n\nExample: `celora tenant set team-a --budget 200 --max-gpus 2`",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The tenant.")]


def _limit(text: str) -> Any:
    return typer.Option(help=f"{text}; a number, 0 for nothing, or none.", show_default=False)


@app.command("set")
def set_(
    name: Name,
    *,
    max_jobs: Annotated[str | None, _limit("Jobs that are worked on at once")] = None,
    max_gpus: Annotated[str | None, _limit("Devices at once")] = None,
    gpu_minutes: Annotated[str | None, _limit("Device minutes of a UTC month")] = None,
    budget: Annotated[str | None, _limit("Money of a UTC month, in the currency of the prices")] = None,
    storage_bytes: Annotated[str | None, _limit("Bytes of files, datasets, checkpoints and adapters")] = None,
    max_priority: Annotated[
        int | None, typer.Option(help="The highest priority of a job, up to 100.", show_default=False)
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Its share of the devices relative to others', above 0.", show_default=False)
    ] = None,
    over: Annotated[
        str | None, typer.Option(help="The answer to a job beyond a limit: wait or refuse.", show_default=False)
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Classes of jobs that it may submit: urgent,normal,background.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set limits of a tenant, which is made where it is missing; the others stay.

    Example: `celora tenant set team-a --budget 200 --gpu-minutes none --over refuse`
    """
    counts = {"max_jobs": max_jobs, "max_gpus": max_gpus, "storage_bytes": storage_bytes}
    amounts = {"gpu_minutes": gpu_minutes, "budget": budget}
    given: dict[str, Any] = {
        **{key: _number(key, text, int) for key, text in counts.items() if text is not None},
        **{key: _number(key, text, float) for key, text in amounts.items() if text is not None},
        **{key: value for key, value in (("max_priority", max_priority), ("weight", weight), ("over", over),
                                          ("classes", classes))
           if value is not None},
    }  # fmt: skip
    if not given:
        raise SettingsError("nothing is to be set.", hint=f"Name a limit: celora tenant set {name[:64]} --max-gpus 2")
    from ..services.tenants import limits  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    _show(limits.as_data(limits.set_tenant(name, given)), as_json=as_json)


@app.command("show")
def show(name: Name, *, as_json: Json = False) -> None:
    """Show a tenant's limits and what is used of them now.

    Example: `celora tenant show team-a`
    """
    from ..services.tenants import limits  # noqa: PLC0415  (as above)

    record()
    _show(limits.as_data(limits.show_tenant(name)), as_json=as_json)


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the tenants with their limits and what is used of them now.

    Example: `celora tenant list --json`
    """
    from ..services.tenants import limits  # noqa: PLC0415  (as above)

    record()
    rows = [limits.as_data(view) for view in limits.list_tenants()]
    if as_json:
        print_json(rows)
        return
    columns = ("tenant", "jobs", "GPUs", "GPU minutes", "money", "stored", "priority", "weight", "over")
    console().print(table(columns, [_line(row) for row in rows]) if rows else "There is no tenant yet.")


@app.command("delete")
def delete(
    name: Name,
    *,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name once more, in place of the two questions.", show_default=False),
    ] = None,
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds that its running jobs get to end.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Delete a tenant with everything that it owns: jobs, adapters, datasets, files, keys, secrets and its use.

    Its running jobs are cancelled first. The audit stays. There is no way back.

    Example: `celora tenant delete team-a`
    """
    from ..models.tenants.deletion import job_ids  # noqa: PLC0415  (only this command needs it)
    from ..services import tenant_deletion  # noqa: PLC0415  (Celery takes a third of a second to import)
    from ..services.chat.unloading import unload_jobs  # noqa: PLC0415  (as above)

    with record().session(Scope.everything) as session:
        owned_jobs = job_ids(session, name)
    owned = tenant_deletion.holdings(name)
    _check_twice(owned, confirm)
    done = tenant_deletion.delete_tenant(name, wait_s=wait_s)
    unload_jobs(get_settings(), owned_jobs)
    if as_json:
        print_json(asdict(done))
        return
    kept = f"; {done.shared} stay, since others have them, too" if done.shared else ""
    say(f"Tenant {name} is deleted: {_counted(done.rows)}. Contents removed: {done.contents}{kept}.")


def _check_twice(owned: "Holdings", confirm: str | None) -> None:
    """Ask twice whether the tenant is to be deleted, unless its name was given once more."""
    name = owned.tenant
    if confirm == name:
        return
    if confirm is None:
        say(f"Tenant {name} owns {_counted(owned.rows)}; {size(owned.stored_bytes)} are stored.", err=True)
        if owned.unfinished:
            say(f"{owned.unfinished} of its jobs have not ended; they will be cancelled.", err=True)
        try:
            typer.confirm("Delete all of this? There is no way back", abort=True, err=True)
            if typer.prompt("Type the tenant's name to delete it", err=True) == name:
                return
        except typer.Abort:
            pass
    raise SettingsError(
        f"the deletion of tenant {name} is not confirmed; nothing was deleted.",
        hint=f"Answer both questions, or give the name once more: --confirm {name}",
    )


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in rows.items()) or "nothing"


def _show(data: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(data)
        return
    minutes = f"{data['used_gpu_minutes']:.1f} used and {data['held_gpu_minutes']:.1f} held"
    paid = f"{money(data['used_budget'])} used and {money(data['held_budget'])} held"
    lines = [
        f"Tenant {data['name']}, since {data['created_at']:%Y-%m-%d}; use of {data['month']} (UTC)",
        f"  jobs at work   {data['jobs_at_work']} of {_shown(data['max_jobs'])}; {data['jobs']} unfinished",
        f"  devices        {_shown(data['max_gpus'], 'at most {} at once')}",
        f"  GPU minutes    {minutes} of {_shown(data['gpu_minutes'])}",
        f"  money          {paid} of {_shown(data['budget'])}",
        f"  stored         {size(data['stored_bytes'])} of {_shown(data['storage_bytes'], '{} bytes')}",
        f"  priority       up to {data['max_priority']}; weight {data['weight']:g}",
        f"  classes        {data['classes'].replace(',', ', ')}",
        f"  beyond a limit a job {'waits' if data['over'] == 'wait' else 'is refused'}",
    ]
    say("\n".join(lines))


def _line(data: dict[str, Any]) -> tuple[str, ...]:
    return (
        data["name"],
        f"{data['jobs_at_work']}/{_shown(data['max_jobs'])}",
        _shown(data["max_gpus"]),
        f"{data['used_gpu_minutes']:.0f}+{data['held_gpu_minutes']:.0f}/{_shown(data['gpu_minutes'])}",
        f"{data['used_budget']:.2f}+{data['held_budget']:.2f}/{_shown(data['budget'])}",
        f"{size(data['stored_bytes'])}/{_shown(data['storage_bytes'])}",
        str(data["max_priority"]),
        f"{data['weight']:g}",
        data["over"],
    )


def _shown(limit: float | None, words: str = "{}") -> str:
    return "no limit" if limit is None else words.format(f"{limit:g}" if isinstance(limit, float) else limit)


def _number(name: str, text: str, kind: type[int] | type[float]) -> float | None:
    if text.strip().lower() == "none":
        return None
    try:
        return kind(text)
    except (ValueError, OverflowError):
        what = "whole number" if kind is int else "number"
        raise SettingsError(
            f"--{name.replace('_', '-')}: {text[:40]!r} is no {what}.", hint=f"Give a {what}, 0, or none."
        ) from None
