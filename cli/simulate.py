"""Defines ``celora simulate``: the queue's policy on a made-up cluster, in seconds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SettingsError
from .open_record import record
from .output import Json, console, duration, print_json, say, table

POLICIES = ("fifo", "priority")


def simulate(
    scenario: Annotated[Path | None, typer.Argument(help="A scenario: cluster, tenants, settings, jobs; YAML.")] = None,
    *,
    compare: Annotated[str, typer.Option(help="Other policies to show beside ours: fifo, priority.")] = "",
    from_record: Annotated[
        bool, typer.Option("--from-record", help="Take cluster, tenants and unfinished jobs from the record.")
    ] = False,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", metavar="TENANT=NUMBER", help="A weight to try; several times.")
    ] = None,
    half_life_hours: Annotated[float | None, typer.Option(help="A half-life to try.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the waits by tenant into this file.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write the scenario into this file and leave.")] = None,
    as_json: Json = False,
) -> None:
    """Try the queue's policy on a made-up cluster, or on the jobs that wait now, before you turn it on.

    Example: `celora simulate scenario.yaml --compare fifo,priority --svg waits.svg`

    Example: `celora simulate --from-record --weight vision=3`
    """
    from ..scheduling.simulation_report import draw  # noqa: PLC0415  (only this command needs it)
    from ..services.queue import simulation  # noqa: PLC0415  (the same)

    if (scenario is None) != from_record:
        raise SettingsError("name a scenario file, or use --from-record.", hint="One of the two says what to simulate.")
    if from_record:
        record()
    fields = simulation.record_scenario() if scenario is None else simulation.read_file(scenario)
    if export is not None:
        simulation.write_file(export, fields)
        say(f"Wrote {export}. Replay it: celora simulate {export}")
        return
    chosen = simulation.changed(fields, weights=_weights(weight or []), half_life_hours=half_life_hours)
    reports = simulation.run(chosen, _policies(compare))
    if svg is not None:
        svg.write_text(draw(reports), encoding="utf-8")
    if as_json:
        print_json([simulation.plain(each) for each in reports])
        return
    for each in reports:
        _print(each)


def _print(each: Any) -> None:
    fair = "" if each.jain is None else f", Jain {each.jain:.3f} over {duration(each.contended_s)} in which all wait"
    say(
        f"{each.policy}: utilisation {each.utilisation:.1%}, longest wait {duration(each.longest_s)}{fair}, "
        f"{each.preemptions} preemptions"
    )
    rows = [
        (
            one.tenant,
            one.jobs,
            duration(one.median_s),
            duration(one.p95_s),
            duration(one.longest_s),
            duration(one.gpu_seconds),
        )
        for one in each.tenants
    ]
    console().print(table(["tenant", "jobs", "median wait", "p95", "longest", "GPU time"], rows))
    if each.forecast_error is not None:
        say(f"{each.forecasts} starts forecast after ten ended jobs, half of them within {each.forecast_error:.0%}.")
    if each.never:
        say(f"{len(each.never)} jobs can never run on this cluster, {each.never[0]} the first.")


def _policies(words: str) -> list[str]:
    chosen = [word.strip() for word in words.split(",") if word.strip()]
    for word in chosen:
        if word not in POLICIES:
            raise SettingsError(f"there is no policy {word!r} to compare with.", hint=f"Use {' or '.join(POLICIES)}.")
    return ["fair", *chosen]


def _weights(words: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = 0.0
        if not 0 < found[name] < float("inf"):
            raise SettingsError(f"--weight {word!r} is no weight.", hint="Write TENANT=NUMBER, with a number above 0.")
    return found
