"""Defines ``celora notify``: the channels of people, and the log of what was delivered to them and to webhooks.

The URL of a channel holds its password, so it is prompted for or read from standard input, never an argument.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingsError, did_you_mean
from ..settings.secrets import INSTALLATION
from .open_record import record
from .output import Json, console, print_json, say, table

if TYPE_CHECKING:
    from ..models.notifications.notices import Notice

app = typer.Typer(
    no_args_is_help=True,
    help="Who is notified of the ends of jobs, and of what else.\n\nExample: `celora notify add team --on done,failed`",
)
Of = Annotated[str, typer.Option(help="The tenant whose jobs, champions and schedules it is about.")]
OfAll = Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)]
Words = Annotated[str, typer.Argument(metavar="NAME", help="Its name or id, as `celora notify list` shows it.")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="A name for lists.")],
    *,
    on: Annotated[
        str, typer.Option(help="Some of done, failed, cancelled, waiting, paused, champion, missed, off; or all.")
    ] = "done,failed",
    job: Annotated[str | None, typer.Option(help="Only this job.", show_default=False)] = None,
    waiting: Annotated[str, typer.Option(help="How long a job may wait before `waiting`: 30m, 2h.")] = "1h",
    tenant: Of = INSTALLATION,
    as_json: Json = False,
) -> None:
    """Add a channel: mail, Slack, Teams, Discord, ntfy and others; its URL is asked for, or read from standard input.

    Example: `celora notify add team --on failed,waiting --waiting 30m < channel-url.txt`
    """
    from ..scheduling.cron import parse_every  # noqa: PLC0415  (only this group needs it)
    from ..services.notifications import receivers  # noqa: PLC0415  (only this group needs it)

    notices, waiting_s = _notices(on), int(parse_every(waiting))
    url = typer.prompt("URL", hide_input=True) if sys.stdin.isatty() else sys.stdin.read().strip()
    record()
    made = receivers.add_channel(tenant, name, url, notices=notices, job_id=job, waiting_s=waiting_s)
    if as_json:
        print_json(vars(made))
    else:
        say(
            f"{made.name} ({made.id}) is notified of: {', '.join(made.notices)}. Try it: celora notify test {made.name}"
        )


@app.command("list")
def list_(*, tenant: OfAll = None, as_json: Json = False) -> None:
    """List the channels and the webhook endpoints; their secrets are never shown.

    Example: `celora notify list --json`
    """
    from ..services.notifications import receivers  # noqa: PLC0415  (only this group needs it)

    record()
    found = receivers.list_receivers(tenant)
    if as_json:
        print_json([vars(view) for view in found])
        return
    columns = ("id", "tenant", "name", "to", "notified of", "job", "failing since", "off")
    rows = [
        (view.id, view.tenant, view.name, view.url, ",".join(view.notices), view.job, view.failing_since,
         view.off_reason)
        for view in found
    ]  # fmt: skip
    console().print(table(columns, rows) if found else "Nobody is notified. Add a channel: celora notify add NAME")


@app.command("test")
def send_sample(name: Words, *, tenant: Of = INSTALLATION) -> None:
    """Deliver a sample now, and say what came of it.

    Example: `celora notify test team`
    """
    from ..services.notifications import receivers  # noqa: PLC0415  (only this group needs it)

    record()
    result = receivers.try_out(tenant, name)
    if result.fault:
        say(f"{name} was not reached: {result.fault}.", err=True)
        raise typer.Exit(1)
    say(f"{name} took it" + (f" ({result.status})." if result.status else "."))


@app.command("on")
def on_(name: Words, *, tenant: Of = INSTALLATION) -> None:
    """Switch a receiver on again that failed for days.

    Example: `celora notify on team`
    """
    from ..services.notifications import receivers  # noqa: PLC0415  (only this group needs it)

    record()
    view = receivers.switch_on(tenant, name)
    say(f"{view.name} is notified again.")


@app.command("remove")
def remove(name: Words, *, tenant: Of = INSTALLATION) -> None:
    """Remove a channel or a webhook endpoint, with the log of its deliveries.

    Example: `celora notify remove team`
    """
    from ..services.notifications import receivers  # noqa: PLC0415  (only this group needs it)

    record()
    view = receivers.remove(tenant, name)
    say(f"{view.name} is notified no more.")


@app.command("log")
def log(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only to this receiver.", show_default=False)
    ] = None,
    *,
    tenant: OfAll = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The largest number.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what was delivered, what is under way and what was given up, the newest first.

    Example: `celora notify log team --tenant team-a`
    """
    from ..services.notifications import receivers  # noqa: PLC0415  (only this group needs it)

    record()
    found = receivers.list_deliveries(INSTALLATION if tenant is None and name else tenant, words=name, limit=limit)
    if as_json:
        print_json([vars(view) for view in found])
        return
    columns = ("id", "tenant", "to", "notice", "about", "since", "tries", "state", "last answer")
    rows = [
        (view.id, view.tenant, view.name, view.notice, view.subject, view.created_at, len(view.tries),
         view.outcome or "open", _answer(view.tries))
        for view in found
    ]  # fmt: skip
    console().print(table(columns, rows) if found else "Nothing was delivered.")


@app.command("redeliver")
def redeliver(
    delivery: Annotated[int, typer.Argument(help="Its number, as `celora notify log` shows it.")],
    *,
    tenant: OfAll = None,
) -> None:
    """Deliver again within seconds, whether the delivery has ended or not.

    Example: `celora notify redeliver 12`
    """
    from ..services.notifications import receivers  # noqa: PLC0415  (only this group needs it)

    record()
    view = receivers.redeliver(delivery, tenant=tenant)
    say(f"Delivery {view.id} to {view.name} is due now.")


def _answer(tries: Sequence[dict[str, object]]) -> object:
    return (tries[-1].get("fault") or tries[-1].get("status")) if tries else None


def _notices(words: str) -> "list[Notice]":
    """Parse the names of notices, with commas between.

    Raises:
        SettingsError: One is unknown; the message names the nearest.
    """
    from ..models.notifications.notices import Notice  # noqa: PLC0415  (only this group needs it)

    given = [word.strip().lower() for word in words.split(",") if word.strip()]
    known = [notice.value for notice in Notice]
    if given == ["all"]:
        return list(Notice)
    for word in given:
        if word not in known:
            hint = f"There are: {'; '.join(f'{notice.value} ({notice.meaning})' for notice in Notice)}."
            raise SettingsError(f"--on: there is no notice {word[:40]}" + did_you_mean(word, known), hint=hint)
    if not given:
        raise SettingsError("--on names no notice.", hint=f"Some of: {', '.join(known)}.")
    return [Notice(word) for word in dict.fromkeys(given)]
