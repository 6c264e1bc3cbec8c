"""Defines ``celora schedule``, which trains models again by the clock or when their data has grown.

Unusual: as in ``submit``, every field of the job is an option of ``add``, beside or instead of a job file.
"""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ..models.tables.schedule import Schedule
from ..scheduling.cron import explain, shown_every, zone
from .open_record import record
from .options import Fields, command, fields_of
from .output import Json, console, print_json, say, table
from .rows_here import is_file
from .tenants import Tenant, tenant_of, tenant_option

app = typer.Typer(
    no_args_is_help=True,
    help="Train again by the clock, or when the data grew.\n\n"
    'Example: `celora schedule add weekly --cron "0 3 * * 1" --timezone Europe/Berlin --spec job.yaml`',
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the schedule.")]
WHEN = "When to train"


def add_schedule(
    words: list[str] | None,
    *,
    spec: Path | None,
    cron: str | None,
    timezone: str | None,
    every: str | None,
    when_new_rows: int | None,
    when_data_changed: bool,
    missed: str,
    overlap: str,
    as_json: bool,
    **options: str | list[str] | None,
) -> None:
    """Add a schedule: a job and the times of its runs. A job that could not be trained is refused now.

    A dataset file is read again when it changed; a dataset's name means its newest version at each run.

    Example: `celora schedule add weekly --cron "0 3 * * 1" --timezone Europe/Berlin --spec job.yaml`

    Example: `celora schedule add grown --when-new-rows 500 --base-model smollm2-135m-instruct --dataset support-faq`
    """
    from ..services import schedules  # noqa: PLC0415  (Celery takes a third of a second to import)

    words = list(words or [])
    if not words or words[0].startswith("--"):
        raise typer.BadParameter("the schedule needs a name first: celora schedule add NAME …")
    name, *rest = words
    fields = _absolute(fields_of([*([str(spec)] if spec else []), *rest], options, loose=""))
    record()
    made = schedules.add(
        name,
        fields,
        cron=cron,
        timezone=timezone,
        every=every,
        when_new_rows=when_new_rows,
        when_data_changed=when_data_changed,
        missed=missed,
        overlap=overlap,
    )
    if as_json:
        print_json(made)
        return
    first = f"; first at {_at(made, made['upcoming'][0])}" if made["upcoming"] else ""
    say(f"{name} is added: {_when(made)}{first}\nSee it: celora schedule show {name}{tenant_option(made['tenant'])}")


def _option(kind: Any, text: str, *names: str) -> Any:
    return Annotated[kind, typer.Option(*names, help=text, rich_help_panel=WHEN, show_default=False)]


app.command("add", context_settings={"ignore_unknown_options": True})(
    command(
        add_schedule,
        {
            "words": (Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Of the schedule.")], None),
            "spec": (_option(Path | None, "A job file; options beside it override it."), None),
            "cron": (_option(str | None, "Five fields: minute, hour, day, month, day of the week."), None),
            "timezone": (_option(str | None, "The time zone of the cron line. [default: UTC]"), None),
            "every": (_option(str | None, "An interval: 90s, 30m, 6h, 1d12h, 2w."), None),
            "when_new_rows": (_option(int | None, "Run when the dataset has this many rows more."), None),
            "when_data_changed": (
                _option(bool, "Run when the content of the dataset has changed.", "--when-data-changed"),
                False,
            ),
            "missed": (
                _option(str, "The rule for runs that were missed: run-once or skip. [default: run-once]"),
                "run-once",
            ),
            "overlap": (
                _option(str, "The rule for a run before the last job has ended: skip, queue or replace (the one that "
                        "waits). [default: skip]"),
                "skip",
            ),
            "as_json": (Json, False),
        },
    )
)  # fmt: skip


@app.command("list")
def list_(
    *, tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: Json = False
) -> None:
    """List the schedules with their times and the outcome of their last runs.

    Example: `celora schedule list --json`
    """
    from ..services import schedules  # noqa: PLC0415  (as above)

    record()
    rows = schedules.listed(tenant)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say('No schedule. Add one: celora schedule add weekly --cron "0 3 * * 1" --spec job.yaml')
        return
    columns = ["schedule", "tenant", "when", "next run", "last run", "outcome", "job", "error"]
    console().print(table(columns, map(_row, rows)))


@app.command("show")
def show(name: Name, *, tenant: Tenant = None, as_json: Json = False) -> None:
    """Show a schedule, the times of its next five runs, and the outcome of its last runs.

    Example: `celora schedule show weekly`
    """
    from ..services import schedules  # noqa: PLC0415  (as above)

    whose = tenant_of(tenant, [name], Schedule)
    found = schedules.show(name, tenant=whose)
    if as_json:
        print_json(found)
        return
    out = console()
    for line in _lines(found):
        out.print(line, markup=False)
    columns = ["run", "outcome", "job", "status", "why"]
    out.print(table(columns, (_run(found, row) for row in found["slots"])) if found["slots"] else "no run yet")


@app.command("pause")
def pause(name: Name, *, tenant: Tenant = None) -> None:
    """Give a schedule no jobs until it is resumed; a job that it has goes on.

    Example: `celora schedule pause weekly`
    """
    from ..services import schedules  # noqa: PLC0415  (as above)

    whose = tenant_of(tenant, [name], Schedule)
    schedules.pause(name, tenant=whose)
    say(f"{name} is paused. Let it go on: celora schedule resume {name}{tenant_option(whose)}")


@app.command("resume")
def resume(name: Name, *, tenant: Tenant = None) -> None:
    """Let a paused schedule go on from now; runs of the meantime are not made up for.

    Example: `celora schedule resume weekly`
    """
    from ..services import schedules  # noqa: PLC0415  (as above)

    whose = tenant_of(tenant, [name], Schedule)
    schedules.resume(name, tenant=whose)
    found = schedules.show(name, tenant=whose)
    ahead = f"; next at {_at(found, found['upcoming'][0])}" if found["upcoming"] else ""
    say(f"{name} goes on{ahead}")


@app.command("run-now")
def run_now(name: Name, *, tenant: Tenant = None, as_json: Json = False) -> None:
    """Train at once, behind the job that the schedule has if that is not over.

    Example: `celora schedule run-now weekly`
    """
    from ..services import schedules  # noqa: PLC0415  (as above)

    whose = tenant_of(tenant, [name], Schedule)
    run = schedules.run_now(name, tenant=whose)
    if as_json:
        print_json(run)
    else:
        say(f"{run['job_id']}\nFollow it: celora status {run['job_id']}" if run["job_id"] else run["message"])
    if run["outcome"] == "failed":
        raise typer.Exit(1)


@app.command("remove")
def remove(name: Name, *, tenant: Tenant = None) -> None:
    """Remove a schedule; its jobs and adapters stay.

    Example: `celora schedule remove weekly`
    """
    from ..services import schedules  # noqa: PLC0415  (as above)

    whose = tenant_of(tenant, [name], Schedule)
    schedules.remove(name, tenant=whose)
    say(f"{name} is removed; its jobs and adapters stay.")


def _absolute(fields: Fields) -> Fields:
    """Return the fields with the absolute path of each dataset that is a file here, since the workers run elsewhere."""

    def whole(source: Any) -> Any:
        return str(Path(source).absolute()) if isinstance(source, str) and is_file(source) else source

    made = dict(fields)
    for name in ("dataset", "eval_dataset"):
        given = made.get(name)
        if isinstance(given, dict):
            made[name] = {role: whole(source) for role, source in given.items()}  # pyright: ignore[reportUnknownVariableType]
        elif given:
            made[name] = whole(given)
    if isinstance(made.get("gate"), dict) and made["gate"].get("must_pass"):
        made["gate"] = {**made["gate"], "must_pass": whole(made["gate"]["must_pass"])}
    return made


def _when(row: dict[str, Any]) -> str:
    if row["cron"]:
        return f"{row['cron']} ({row['timezone']}): {explain(row['cron'])}"
    if row["every_s"]:
        return f"every {shown_every(row['every_s'])}"
    dataset = row["spec"]["dataset"]
    return (
        f"when {dataset} has {row['when_new_rows']:,} new rows" if row["when_new_rows"] else f"when {dataset} changed"
    )


def _at(row: dict[str, Any], at: datetime) -> str:
    """Format a time on the wall clock of the schedule's zone."""
    return f"{at.astimezone(zone(row['timezone'])):%a %Y-%m-%d %H:%M:%S %Z}"


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    last: dict[str, Any] = row["last"] or {}
    outcome = last.get("status") or last.get("outcome")
    ahead = "paused" if row["paused"] else _at(row, row["next_slot"]) if row["next_slot"] else None
    last_run = _at(row, last["at"]) if last else None
    return (row["name"], row["tenant"], _when(row), ahead, last_run, outcome, last.get("job_id"), row["last_error"])


def _run(found: dict[str, Any], row: dict[str, Any]) -> tuple[Any, ...]:
    contest: dict[str, Any] = row["contest"] or {}
    judged = f"{'promoted' if contest['promote'] else 'kept out'}, {contest['reason']}" if contest else ""
    why = "; ".join(filter(None, (judged, row["message"])))
    return (_at(found, row["at"]), row["outcome"], row["job_id"], row["status"], why)


def _lines(found: dict[str, Any]) -> Iterable[str]:
    spec = found["spec"]
    contest = f", for champion {spec['champion']}" if spec.get("champion") else ""
    yield f"{found['name']} of tenant {found['tenant']}" + (", paused" if found["paused"] else "")
    yield f"  when      {_when(found)}"
    yield f"  trains    {spec['base_model']} on {spec['dataset']}{contest}"
    yield f"  missed    {found['missed']}; overlap {found['overlap']}"
    if found["seen"]:
        yield f"  since     {found['seen']['reference']}" + _grown(found)
    if found["last_error"]:
        yield f"  error     {found['last_error']} ({_at(found, found['last_error_at'])})"
    if found["upcoming"]:
        yield "next runs"
        yield from (f"  {_at(found, at)}" for at in found["upcoming"])


def _grown(found: dict[str, Any]) -> str:
    looked: dict[str, Any] = found["looked"] or {}
    counted = looked.get("counted")
    if not found["when_new_rows"] or not counted or counted["pair"][1] != found["seen"]["sha256"]:
        return ""
    return f": {counted['rows']:,} of {found['when_new_rows']:,} new rows"
