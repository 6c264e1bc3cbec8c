"""Defines ``celora compare``, adapters side by side on the same rows, and ``celora rate``, which asks people blind."""

import getpass
import random
import sys
from typing import Annotated, Any

import typer

from ..errors import SettingsError
from ..models import champions, ratings
from ..models.ratings import BASE
from ..models.scope.scope import Scope
from ..models.tables import Adapter
from ..models.tables.champion import Champion
from ..models.tenants.audit import current_actor, record_audit
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from .adapters import Phases
from .champion_text import preferred
from .open_record import record
from .output import Json, console, print_json, say, table
from .tenants import Tenant, scope_of, tenant_of

One = Annotated[str, typer.Argument(metavar="A", help="A champion, an adapter's name, a job's id, or base.")]
Other = Annotated[str, typer.Argument(metavar="B", help="What it is compared with.")]
Run = Annotated[
    bool, typer.Option("--run", help="Measure all of them now, here, in one process, on the first one's held-out rows.")
]
SHOWN_ROWS = 3
ASKED_ROWS = 20
CHOICES = {"1": 0, "2": 1, "=": None}


def compare(
    one: One,
    other: Other,
    third: Annotated[
        str | None, typer.Argument(metavar="[BASE]", help="A third column; the bare base model unless given.")
    ] = None,
    *,
    rows: Annotated[int, typer.Option(min=0, help="How many rows that got better and worse are shown.")] = SHOWN_ROWS,
    run: Run = False,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Compare two adapters: metrics side by side, which rows got better and worse, and whether it may be chance.

    Example: `celora compare support-bot 019a…`
    """
    from ..services import comparison  # noqa: PLC0415  (Celery takes a third of a second to import)

    names = [one, other, third or BASE]
    whose = tenant_of(tenant, names, Champion, Adapter)
    found, keys = _found(names, run=run, tenant=whose, scope=scope_of(tenant))
    sets = {name: comparison.figures(lines, "s0", "s1") for name, lines in found.sets.items()}
    against = {name: comparison.figures(lines, "s2", "s1") for name, lines in found.sets.items()}
    moved = {name: comparison.changed(lines, "s0", "s1") for name, lines in found.sets.items()}
    with record().session(Scope.everything) as session:
        votes = [each for each in ratings.of_job(session, whose, keys[1]) if each["against"] == keys[0]]
    if as_json:
        told = {
            name: {"measures": sets[name], "better": moved[name][0][:rows], "worse": moved[name][1][:rows]}
            for name in sets
        }
        head = {"one": keys[0], "other": keys[1], "third": keys[2], "together": found.together, "notes": found.notes}
        print_json({**head, "sets": told, "preference": votes})
        return
    out = console()
    for name, measures in sets.items():
        count = len(found.sets[name])
        columns = ["", *names, f"{other} to {one}", "95 % interval", ""]
        cells = [_row(key, each, against[name].get(key)) for key, each in measures.items()]
        out.print(table(columns, cells, title=f"{name}, {count} rows"))
        _print_rows(out, "better", moved[name][0], rows, names)
        _print_rows(out, "worse", moved[name][1], rows, names)
        out.print()
    for each in votes:
        out.print(f"{other} was preferred {preferred(each)}", markup=False)
    for note in found.notes:
        out.print(f"note: {note}", markup=False)


def rate(
    one: One,
    other: Other,
    *,
    rows: Annotated[int, typer.Option(min=1, help="How many are asked at most.")] = ASKED_ROWS,
    held_out: Annotated[str | None, typer.Option("--set", help="The held-out set; the first unless given.")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Show the expected answer too.")] = False,
    run: Run = False,
    seed: Annotated[int | None, typer.Option(help="Of the order of rows and sides.")] = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Choose between two adapters' answers without knowing whose they are; the win rate counts among the metrics.

    Answer 1 or 2, = for neither, s to skip, q to stop; every choice is kept at once. Rows that both answer alike, and
    those that you rated before, are not asked.

    Example: `celora rate support-bot 019a… --rows 20`
    """
    whose = tenant_of(tenant, [one, other], Champion, Adapter)
    found, keys = _found([one, other], run=run, tenant=whose, scope=scope_of(tenant))
    if keys[0] == keys[1]:
        raise SettingsError(f"{one} and {other} are the same: {keys[0]}.", hint="Name two.")
    name = held_out or next(iter(found.sets))
    if name not in found.sets:
        raise SettingsError(f"there is no held-out set {name}.", hint=f"There are {', '.join(found.sets)}.")
    dice = random.Random(seed)  # noqa: S311  (no secret)
    asked, told = _askable(found.sets[name], keys, whose)
    _say(told, aside=as_json)
    dice.shuffle(asked)
    for number, line in enumerate(asked[:rows], 1):
        sides = dice.sample([0, 1], 2)
        _say(f"\n[{number} of {min(rows, len(asked))}] {line['prompt']}", aside=as_json)
        if reference:
            _say(f"  wanted: {line['reference']}", aside=as_json)
        _say(f"  1: {line[f's{sides[0]}']}\n  2: {line[f's{sides[1]}']}", aside=as_json)
        answer = _ask(aside=as_json)
        if answer == "q":
            break
        if answer != "s":
            _keep(line, keys, sides, CHOICES[answer], held_out=name, tenant=whose)
    _print_rate(one, other, keys, tenant=whose, as_json=as_json)


def _askable(lines: list[dict[str, Any]], keys: list[str], tenant: str) -> tuple[list[dict[str, Any]], str]:
    """Select the rows to choose from; return them with a sentence about them."""
    with record().session(Scope.everything) as session:
        known = ratings.rated_prompts(session, tenant, keys[0], keys[1], getpass.getuser())
    answered = [line for line in lines if line.get("s0") is not None is not line.get("s1")]
    differ = [line for line in answered if line["s0"].split() != line["s1"].split()]
    asked = [line for line in differ if line["prompt"] not in known]
    alike, before = len(answered) - len(differ), len(differ) - len(asked)
    return asked, f"{len(asked)} rows to choose from; both say the same in {alike}, {before} you have rated before."


def _keep(
    line: dict[str, Any], keys: list[str], sides: list[int], choice: int | None, *, held_out: str, tenant: str
) -> None:
    with record().transaction(Scope.everything) as session:
        ratings.rate(
            session,
            tenant=tenant,
            first=(keys[sides[0]], line[f"s{sides[0]}"]),
            second=(keys[sides[1]], line[f"s{sides[1]}"]),
            choice=choice,
            held_out=held_out,
            prompt=line["prompt"],
            by=getpass.getuser(),
        )
        chosen = {"against": keys[sides[1]], "held_out": held_out, "choice": choice}
        record_audit(session, current_actor(), "rating.set", keys[sides[0]], None, chosen, tenant=tenant)


def _print_rate(one: str, other: str, keys: list[str], *, tenant: str, as_json: bool) -> None:
    with record().session(Scope.everything) as session:
        votes = ratings.votes(session, tenant, keys[0], keys[1])
    facts = {"against": keys[1], "wins": votes.wins, "losses": votes.losses, "neither": votes.neither}
    if as_json:
        print_json({"one": keys[0], "other": keys[1], **facts, "win_rate": _share(votes)})
    else:
        say(f"\n{one} is preferred {preferred({**facts, 'against': other})}")


def _say(text: str, *, aside: bool) -> None:
    say(text, err=aside)


def _ask(*, aside: bool) -> str:
    """Ask for one choice; the end of the input counts as a stop."""
    while True:
        _say("better? 1, 2, =, s, q:", aside=aside)
        line = sys.stdin.readline()
        word = line.strip().lower()
        if not line or word == "q":
            return "q"
        if word in (*CHOICES, "s"):
            return word
        _say(f"{word!r} is none of them.", aside=aside)


def _share(votes: ratings.Votes) -> dict[str, float] | None:
    from ..tuning.evaluation.significance import wilson  # noqa: PLC0415  (only where something was decided)

    if not votes.decided:
        return None
    share = wilson(votes.wins, votes.decided)
    return {"value": share.value, "low": share.low, "high": share.high, "confidence": share.confidence}


def _found(names: list[str], *, run: bool, tenant: str, scope: Scope) -> tuple[Any, list[str]]:
    """Collect the answers of the named contestants to the same rows, and their jobs' ids (or ``base``)."""
    from ..services import comparison  # noqa: PLC0415  (Celery takes a third of a second to import)

    settings = get_settings()
    contestants: list[Any] = []
    with record().session(scope) as session:
        for name in names:
            job = None if name == BASE else champions.resolve(session, name, tenant)[0]
            if job is not None:
                session.expunge(job)
            contestants.append(comparison.Contestant(label=name, job=job))
    if all(each.job is None for each in contestants):
        raise SettingsError("the base model alone can't be compared with itself.", hint="Name an adapter.")
    if run:
        found = comparison.measured_now(settings, contestants, Phases())
    else:
        found = comparison.stored(Artifacts(settings.artifacts), contestants)
    return found, [each.key for each in contestants]


def _row(name: str, each: dict[str, Any], third: dict[str, Any] | None) -> list[Any]:
    from ..scheduling.promotion import amount, unit  # noqa: PLC0415  (only comparisons need the decision's words)
    from ..tuning.evaluation.measures import LABELS  # noqa: PLC0415  (the same)

    verdict = {"other": "better", "one": "worse", None: "may be chance"}[each["better"]]
    if not each["difference"]:
        verdict = "equal"
    return [
        LABELS[name],
        each["one"],
        each["other"],
        third["one"] if third else None,
        f"{amount(name, each['difference'])}{unit(name)}",
        f"{amount(name, each['low'])} … {amount(name, each['high'])}",
        verdict,
    ]


def _print_rows(out: Any, what: str, lines: list[dict[str, Any]], limit: int, names: list[str]) -> None:
    out.print(f"{len(lines)} rows got {what}" + (", the first:" if lines[:limit] else ""), markup=False)
    for line in lines[:limit]:
        out.print(f"  {' '.join(str(line['prompt']).split())}", markup=False)
        out.print(f"    wanted: {' '.join(str(line['reference']).split())}", markup=False)
        for i, name in enumerate(names[:2]):
            out.print(f"    {name}: {' '.join(str(line[f's{i}']).split())}", markup=False)
