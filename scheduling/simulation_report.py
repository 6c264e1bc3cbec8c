"""Measures the outcome of a simulation: waiting times, utilisation, fairness; and draws it as SVG."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .simulation import Outcome, Task

COLOURS = ("#2f6f4f", "#b4552d", "#3d5a98")
BAR, GAP, LEFT, WIDTH = 9, 8, 110, 640


@dataclass(frozen=True, kw_only=True)
class TenantWait:
    """The waits of one tenant's jobs, seconds."""

    tenant: str
    jobs: int
    median_s: float
    p95_s: float
    longest_s: float
    gpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of one simulation.

    Attributes:
        policy: The policy that decided.
        tenants: The waits by tenant.
        longest_s: The longest wait of all.
        utilisation: The busy part of the slots from the first arrival to the last one.
        jain: Jain's index of the served GPU seconds by weight, over the time in which every tenant had jobs waiting;
            1 is exactly fair, 1/n serves one of n tenants alone; None where there was no such time.
        contended_s: The length of that time.
        preemptions: Times that a job gave its slot to an urgent one.
        never: Jobs that no worker of the cluster can run.
        forecast_error: The median error of the forecast starts after ten ended jobs, as a part of the wait.
        forecasts: The number of the forecasts that were compared.
    """

    policy: str
    tenants: Sequence[TenantWait]
    longest_s: float
    utilisation: float
    jain: float | None
    contended_s: float
    preemptions: int
    never: Sequence[str]
    forecast_error: float | None
    forecasts: int


def report(outcome: Outcome, tasks: Sequence[Task], weights: Mapping[str, float], slots: int) -> Report:
    """Measure an outcome.

    Args:
        outcome: The result of ``simulate``.
        tasks: The jobs that it replayed.
        weights: The weight of each tenant; 1 where there is none.
        slots: GPU slots of the cluster.
    """
    arrived = {task.job.id: task.job for task in tasks}
    waits: dict[str, list[float]] = {}
    used: dict[str, float] = {}
    for job_id, waited_s in outcome.waited_s.items():
        waits.setdefault(arrived[job_id].tenant, []).append(waited_s)
    for run in outcome.runs:
        used[run.tenant] = used.get(run.tenant, 0.0) + run.ended_s - run.started_s
    tenants = [_tenant(name, sorted(times), used.get(name, 0.0)) for name, times in sorted(waits.items())]
    begin_s, end_s = contended(outcome, tasks)
    served = {name: _served(outcome, name, begin_s, end_s) / weights.get(name, 1.0) for name in waits}
    return Report(
        policy=outcome.policy,
        tenants=tenants,
        longest_s=max((each.longest_s for each in tenants), default=0.0),
        utilisation=_utilisation(outcome, slots),
        jain=jain(served.values()) if end_s > begin_s else None,
        contended_s=max(0.0, end_s - begin_s),
        preemptions=outcome.preemptions,
        never=outcome.never,
        forecast_error=outcome.forecast_error,
        forecasts=outcome.forecasts,
    )


def jain(values: Iterable[float]) -> float:
    """Return Jain's fairness index (Jain, Chiu, Hawe 1984): the square of the sum by n times the sum of squares.

    Example:
        ``jain([1, 1])`` is 1, ``jain([1, 0])`` is 0.5.
    """
    found = list(values)
    squares = sum(value * value for value in found)
    return sum(found) ** 2 / (len(found) * squares) if squares else 1.0


def contended(outcome: Outcome, tasks: Sequence[Task]) -> tuple[float, float]:
    """Return the begin and the end of the longest time in which every tenant had a job waiting, seconds."""
    changes: list[tuple[float, int, str]] = []
    first_s = min((run.started_s - outcome.waited_s[run.job_id] for run in outcome.runs), default=0.0)
    started = {run.job_id: run.started_s for run in reversed(outcome.runs)}
    for task in tasks:
        if task.job.id in started:
            began_s = started[task.job.id]
            changes += [(began_s - outcome.waited_s[task.job.id], 1, task.job.tenant), (began_s, -1, task.job.tenant)]
    waiting = dict.fromkeys((task.job.tenant for task in tasks), 0)
    best, since_s = (first_s, first_s), None
    for at_s, change, tenant in sorted(changes, key=lambda each: (each[0], -each[1])):
        waiting[tenant] += change
        if all(waiting.values()):
            since_s = at_s if since_s is None else since_s
        elif since_s is not None:
            best = max(best, (since_s, at_s), key=lambda pair: pair[1] - pair[0])
            since_s = None
    return best


def _served(outcome: Outcome, tenant: str, begin_s: float, end_s: float) -> float:
    mine = (run for run in outcome.runs if run.tenant == tenant)
    return sum(max(0.0, min(run.ended_s, end_s) - max(run.started_s, begin_s)) for run in mine)


def _utilisation(outcome: Outcome, slots: int) -> float:
    """Return the busy part of the slots until the last job starts: after that nothing is left to place."""
    if not outcome.runs:
        return 0.0
    begin_s = min(run.started_s for run in outcome.runs)
    end_s = max(run.started_s for run in outcome.runs)
    if end_s <= begin_s:
        return 1.0
    busy_s = sum(max(0.0, min(run.ended_s, end_s) - run.started_s) for run in outcome.runs)
    return busy_s / (slots * (end_s - begin_s))


def _tenant(name: str, times: list[float], used_s: float) -> TenantWait:
    return TenantWait(
        tenant=name,
        jobs=len(times),
        median_s=times[len(times) // 2],
        p95_s=times[min(len(times) - 1, int(len(times) * 0.95))],
        longest_s=times[-1],
        gpu_seconds=used_s,
    )


def draw(reports: Sequence[Report]) -> str:
    """Draw the 95th percentile of the waits by tenant and policy, as SVG."""
    names = sorted({each.tenant for one in reports for each in one.tenants})
    most_s = max((each.p95_s for one in reports for each in one.tenants), default=0.0) or 1.0
    rows: list[str] = []
    top = 40 + 16 * len(reports)
    for number, one in enumerate(reports):
        y, fair = 38 + 16 * number, "n/a" if one.jain is None else f"{one.jain:.3f}"
        words = (
            f"{one.policy}: Jain {fair}, utilisation {one.utilisation:.1%}, longest wait {one.longest_s / 3600:.1f} h"
        )
        rows += [
            f'<rect x="10" y="{y - 9}" width="10" height="10" fill="{COLOURS[number % len(COLOURS)]}"/>',
            f'<text x="26" y="{y}">{escape(words)}</text>',
        ]
    for place, name in enumerate(names):
        y = top + place * (len(reports) * BAR + GAP)
        rows.append(f'<text x="{LEFT - 8}" y="{y + BAR}" text-anchor="end">{escape(name)}</text>')
        for number, one in enumerate(reports):
            p95_s = next((each.p95_s for each in one.tenants if each.tenant == name), 0.0)
            long = p95_s / most_s * (WIDTH - LEFT - 80)
            bar_y = y + number * BAR
            colour = COLOURS[number % len(COLOURS)]
            rows += [
                f'<rect x="{LEFT}" y="{bar_y}" width="{long:.1f}" height="{BAR - 1}" fill="{colour}"/>',
                f'<text x="{LEFT + long + 4:.1f}" y="{bar_y + BAR - 1}" font-size="8">{p95_s / 60:.0f} min</text>',
            ]
    height = top + len(names) * (len(reports) * BAR + GAP) + 10
    frame = f'width="{WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {frame} font-family="sans-serif" font-size="11">',
        f'<rect {frame} fill="white"/>',
        '<text x="10" y="18" font-size="13">95th percentile of the waits, by tenant and policy</text>',
        *rows,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
