"""Defines ``celora champion``, which shows the job behind each champion and its history, and moves one by hand."""

import getpass
from typing import Annotated, Any

import typer

from ..models import champions as record_of
from ..models import ratings
from ..models.scope.scope import Scope
from ..models.tables import Adapter, Job
from ..models.tables.champion import Champion
from .champion_text import preferred
from .jobs import compared
from .open_record import record
from .output import Json, cell, console, print_json, say, table
from .tenants import Tenant, scope_of, tenant_of

app = typer.Typer(
    invoke_without_command=True,
    help="Champions: names that point to the adapter in use.\n\nExample: `celora champion show support-bot`",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the champion.")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept in the history.")]
SHOWN = 20


@app.callback()
def champion(context: typer.Context, *, as_json: Json = False) -> None:
    """List every champion."""
    if context.invoked_subcommand is None:
        _list(tenant=None, as_json=as_json)


@app.command("list")
def list_(
    *, tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: Json = False
) -> None:
    """List every champion.

    Example: `celora champion list --json`
    """
    _list(tenant=tenant, as_json=as_json)


@app.command("show")
def show(name: Name, *, tenant: Tenant = None, as_json: Json = False) -> None:
    """Show who is champion, since when and why, with its metrics.

    Example: `celora champion show support-bot`
    """
    whose = tenant_of(tenant, [name], Champion)
    with record().session(Scope.everything) as session:
        found = record_of.get(session, whose, name)
        facts = record_of.shown(found, session.get_one(Adapter, found.job_id))
        moved = next(each for each in record_of.events_of(session, whose, name) if each.kind in record_of.MOVES)
        votes = ratings.of_job(session, whose, found.job_id)
        job = session.get_one(Job, found.job_id)
        measured: dict[str, Any] = job.metrics or {}
    facts |= {"kind": moved.kind, "reason": moved.reason, "by": moved.by, "before": moved.before, "preference": votes}
    if as_json:
        print_json(facts)
        return
    out = console()
    for label in ("name", "tenant", "version", "since", "job", "adapter", "base", "before"):
        out.print(f"{label:<10} {cell(facts[label])}", markup=False)
    out.print(f"{'how':<10} {moved.kind.replace('_', ' ')}{f' by {moved.by}' if moved.by else ''}", markup=False)
    out.print(f"{'why':<10} {moved.reason}", markup=False)
    for each in votes:
        out.print(f"{'preferred':<10} {preferred(each)}", markup=False)
    if measured:
        out.print(compared(measured))


@app.command("history")
def history(
    name: Name,
    *,
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = SHOWN,
    as_json: Json = False,
) -> None:
    """Tell who became champion, who challenged in vain, and why; the newest first.

    Example: `celora champion history support-bot`
    """
    whose = tenant_of(tenant, [name], Champion)
    with record().session(Scope.everything) as session:
        rows = [_event(each) for each in record_of.events_of(session, whose, name, limit)]
        if not rows:
            record_of.get(session, whose, name)
    if as_json:
        print_json(rows)
        return
    columns = ["version", "when", "what", "job", "before", "by", "why"]
    names = ("version", "at", "kind", "job", "before", "by", "reason")
    cells = [[each[key].replace("_", " ") if key == "kind" else each[key] for key in names] for each in rows]
    out = console()
    out.print(table(columns, cells))
    for each in rows:
        if each["fault"]:
            out.print(f"version {each['version']} could not be told: {each['fault']}", markup=False)


@app.command("promote")
def promote(
    name: Name,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="A completed job, or the name of its adapter.")],
    *,
    if_better: Annotated[
        bool, typer.Option("--if-better", help="Only if the job's own gate holds, by what was measured and rated.")
    ] = False,
    reason: Why = "",
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Make a job's adapter champion by hand; or have its gate judged once more, after people rated it.

    Example: `celora champion promote support-bot 019a… --reason "reviewed by Ada"`
    """
    from ..services import challenge, champions  # noqa: PLC0415  (Celery takes a third of a second to import)

    named = tenant_of(tenant, [job_id], Champion, Adapter)
    with record().session(scope_of(tenant)) as session:
        job = record_of.resolve(session, job_id, named)[0]
        whose = tenant or job.tenant  # a name that is new is the tenant's of the job, whoever else has such a name
        chosen, holds = job.id, record_of.find(session, whose, name)
        competes = job.spec.get("champion")
    if not if_better:
        _moved(champions.promote(name, chosen, tenant=whose, reason=reason, by=getpass.getuser()), as_json=as_json)
        return
    if competes != name:
        raise typer.BadParameter(f"job {chosen} competes for {competes or 'no champion'}, not for {name}")
    told = challenge.judge_again(chosen, tenant=whose)
    if as_json:
        print_json(told)
    elif told["promote"]:
        say(f"Job {chosen} is champion {name}: {told['reason']}")
    else:
        kept = f"job {holds.job_id} stays champion {name}" if holds else f"{name} stays without a champion"
        say(f"{kept[0].upper()}{kept[1:]}: {told['reason']}")
    if not told["promote"]:
        raise typer.Exit(1)


@app.command("rollback")
def rollback(name: Name, *, reason: Why = "", tenant: Tenant = None, as_json: Json = False) -> None:
    """Go back to the champion before the present one; twice goes back two.

    Example: `celora champion rollback support-bot --reason "too curt"`
    """
    from ..services import champions  # noqa: PLC0415  (as above)

    whose = tenant_of(tenant, [name], Champion)
    _moved(champions.rollback(name, tenant=whose, reason=reason, by=getpass.getuser()), as_json=as_json)


def _list(*, tenant: str | None, as_json: bool) -> None:
    with record().session(scope_of(tenant)) as session:
        rows = record_of.listed(session)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No champion. A job competes for one: celora submit … --champion support-bot --eval-dataset rows.jsonl")
        return
    names = ("name", "tenant", "version", "since", "job", "adapter_name", "base")
    console().print(table([*names[:5], "adapter", "base"], ([row[key] for key in names] for row in rows)))


def _moved(now_: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(now_)
    else:
        say(f"Champion {now_['name']} is now job {now_['job']}, version {now_['version']}: {now_['adapter']}")


def _event(row: Any) -> dict[str, Any]:
    names = ("name", "tenant", "kind", "version", "before", "reason", "figures", "by", "at", "told_at", "fault")
    return {**{name: getattr(row, name) for name in names}, "job": row.job_id}
