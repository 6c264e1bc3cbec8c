"""Defines the commands about existing jobs: ``status``, ``list``, ``logs``, ``cancel``, ``evaluate``."""

import time
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Table

from ..models.columns import Evaluated
from ..models.states import Status
from ..models.views import JobDetail, JobView
from ..storage.json_values import JsonObject
from .access import JobAccess, Server, jobs_at
from .champion_text import competed, contest, verdict
from .output import Json, cell, console, duration, money, print_json, say, size, table
from .precision import Precision

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
POLL_S = 0.5
METRICS = ("eval_loss", "perplexity", "exact_match", "rouge_l", "bleu")
OF_PREFERENCES = (
    "reward_accuracy",
    "reward_margin",
    "logp_accuracy",
    "logps_wanted",
    "logps_unwanted",
    "answer_tokens",
)
"""Measures that are shown where a job measured them: on held-out preferences."""

SIDES = ("base", "champion", "tuned")


def status(job_id: JobId, *, server: Server = None, as_json: Json = False) -> None:
    """Show where a job stands and, if it waits, why.

    Example: `celora status 019a…`

    Example: `celora status 019a… --server https://celora.example`
    """
    with jobs_at(server) as jobs:
        job = jobs.detail(job_id)
    if as_json:
        print_json(job.plain())
        return
    out = console()
    for name, value in _facts(job):
        out.print(f"{name:<10} {value}", markup=False)
    if job.metrics:
        out.print(compared(job.metrics))
    evaluation = Evaluated.read(job.evaluation)
    for dtype, told in evaluation.serving.items() if evaluation is not None else ():
        out.print(f"\non the unquantized base in {dtype}, as it will be served:", markup=False)
        out.print(compared(told["metrics"]))


def list_(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's jobs.")] = None,
    state: Annotated[Status | None, typer.Option("--status", help="Only jobs of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first.

    Example: `celora list --status running`
    """
    with jobs_at(server) as access:
        jobs = access.list_jobs(tenant=tenant, status=state, limit=limit)
    if as_json:
        print_json([job.plain() for job in jobs])
        return
    if not jobs:
        say("No job. Submit one: celora submit --base-model smollm2-135m-instruct --dataset train.jsonl")
        return
    columns = ["id", "status", "stage", "step", "tenant", "gpu", "created", ""]
    console().print(
        table(
            columns,
            [
                (
                    job.id,
                    job.status,
                    job.stage,
                    _step(job),
                    job.tenant,
                    job.gpu_type or job.gpu,
                    job.created_at,
                    _remark(job),
                )
                for job in jobs
            ],
        )
    )


def logs(
    job_id: JobId,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Stay until the job has ended.")] = False,
    events: Annotated[bool, typer.Option("--events", help="Print the record's events instead.")] = False,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Print what a job's processes wrote, stage after stage, or what the record says happened.

    Example: `celora logs 019a… -f`
    """
    with jobs_at(server) as jobs:
        if events or as_json:
            _print_events(jobs, job_id, follow=follow, as_json=as_json)
            return
        for text in _log_text(jobs, job_id, follow=follow):
            say(text.replace("\r\n", "\n").replace("\r", "\n"), nl=False)  # a progress bar: a line each time


def cancel(job_id: JobId, *, server: Server = None, as_json: Json = False) -> None:
    """Cancel a job; what runs of it is stopped and its memory freed.

    Example: `celora cancel 019a…`
    """
    with jobs_at(server) as jobs:
        job_id = jobs.whole_id(job_id)
        answer = jobs.cancel(job_id)
        job = jobs.detail(job_id)
    if as_json:
        print_json({"id": job_id, "answer": answer, "status": job.status})
        return
    words = {
        "cancelled": "is cancelled.",
        "cancelling": "is being cancelled; its worker stops it.",
        "final": f"had ended before; it is {job.status}.",
    }
    say(f"Job {job_id} {words.get(answer, answer)}")


def evaluate(
    job_id: JobId,
    *,
    serving_dtype: Annotated[
        Precision | None, typer.Option(help="Measure on the unquantized base in this dtype, as it will be served.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a completed job's adapter against its base once more; the job's status stays.

    An adapter that was trained on a base in 4 bits is mostly served on one in 16: --serving-dtype measures it there.
    These numbers stand beside the job's own.

    Example: `celora evaluate 019a…`

    Example: `celora evaluate 019a… --serving-dtype bf16`
    """
    from ..services import jobs as submission  # noqa: PLC0415  (Celery takes a third of a second to import)
    from .local_jobs import whole_id  # noqa: PLC0415  (a command for a server loads no SQL)

    job_id = whole_id(job_id)
    submission.evaluate_again(job_id, serving_dtype.dtype if serving_dtype else None)
    if as_json:
        print_json({"id": job_id})
    else:
        say(f"Job {job_id} is being evaluated again; see celora status {job_id}")


def print_outcome(job: JobDetail, *, as_json: bool) -> None:
    """Print how a job ended: what programs may build on, or a few lines for people; an error in one sentence."""
    if as_json:
        metrics: JsonObject = job.metrics or {}
        names = _measures(metrics.get("tuned", {}))
        measured = {who: {name: metrics.get(who, {}).get(name) for name in names} for who in ("base", "tuned")}
        print_json(
            {
                "id": job.id,
                "status": job.status,
                "adapter": job.adapter,
                "cost": job.cost,
                "metrics": measured if metrics else None,
                "champion": verdict(job),
                "error": job.error,
            }
        )
    elif job.status == Status.COMPLETED:
        out = console()
        out.print(f"Job {job.id} is completed.", markup=False)
        out.print(f"adapter    {cell(job.adapter)}\ncost       {money(job.cost)}", markup=False)
        if told := competed(job):
            out.print(f"champion   {told}", markup=False)
        if job.metrics:
            out.print(compared(job.metrics))
        out.print(f"Take it: celora pull {job.id}", markup=False)
    if job.status != Status.COMPLETED:
        sentence = f"{job.failure.message} {job.failure.hint}".strip()
        say(f"celora: job {job.id} is {job.status}{': ' + sentence if sentence else '.'}", err=True)


def compared(metrics: JsonObject) -> Table:
    """Base against tuned, and the champion of that moment where there was one, a row per measure and held-out set."""
    sets: dict[str, JsonObject] = metrics.get("sets") or {"eval": metrics}
    sides = [who for who in SIDES if who in metrics]
    rows = [
        (name if number == 0 else " ", measure, *(values.get(who, {}).get(measure) for who in sides))
        for name, values in sets.items()
        for number, measure in enumerate(_measures(values.get("tuned", {})))
    ]
    return table(["set", "measure", *sides], rows)


def _measures(values: JsonObject) -> tuple[str, ...]:
    return METRICS + tuple(name for name in OF_PREFERENCES if name in values)


def _origin(job: JobDetail) -> Iterator[tuple[str, str]]:
    """Yield the adapter that a job trains on, and the datasets that it uses."""
    if job.continue_from:
        yield "parent", f"{job.continue_from}, whose adapter it trains on"
    for role, seen in job.datasets.items():
        label = "dataset" if role == "train" else "eval"
        yield label, f"{seen['name']}@{seen['version']}" + ("" if role in ("train", "eval") else f" ({role})")


def _facts(job: JobDetail) -> Iterator[tuple[str, str]]:
    told = "pausing" if job.pause_requested else job.reason
    yield "job", str(job.id)
    yield "status", " ".join(filter(None, [str(job.status), told and f"({told})"]))
    yield "stage", f"{job.stage}, {_step(job)}" if job.steps else str(job.stage)
    if job.wait_reason:
        yield "waits", str(job.wait_reason)
    if job.error:
        yield "error", f"{job.failure.message} {job.failure.hint}".strip()
    yield "base", cell(job.base_model)
    yield from _origin(job)
    yield "tenant", str(job.tenant)
    yield "device", cell(job.gpu_type or job.gpu) + (f" on {job.worker}" if job.worker else "")
    yield "attempt", str(job.attempt)
    yield from _so_far(job)
    yield "created", cell(job.created_at)
    if job.loss is not None:
        yield "loss", cell(job.loss)
    if job.tokens_per_s:
        yield "speed", f"{job.tokens_per_s:.0f} tokens/s, {duration(job.eta_s)} left"
    if job.trainable_parameters:
        yield "trainable", f"{job.trainable_parameters:,} ({job.trainable_share or 0:.2%})"
    if job.stage_seconds:
        yield "time", ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in job.stage_seconds.items())
    if job.gpu_seconds:
        yield "cost", f"{money(job.cost)} ({duration(job.gpu_seconds)} held)"
    if job.estimate:
        yield "estimate", _estimate(job.estimate)
    if job.adapter:
        yield "adapter", str(job.adapter)
    yield from contest(job)
    yield from (("warning", warning) for warning in job.warnings or [])


def _estimate(known: JsonObject) -> str:
    """Return the estimate of a job's time, with the earlier runs behind it, and of its memory beside what it used."""
    runs = f"by {known['runs']} earlier runs" if known["runs"] else "by the formula alone"
    span = f"{duration(known['low_s'])} to {duration(known['high_s'])}"
    words = f"{duration(known['seconds'])} on {known['gpu_type']} ({span}, {runs})"
    if known["took_s"] is not None:
        words += f"; took {duration(known['took_s'])}"
    if known["memory_bytes"] and known["peak_memory_bytes"]:
        words += f"; memory {size(known['memory_bytes'])}, used {size(known['peak_memory_bytes'])}"
    return words


def _step(job: JobView) -> str:
    return f"{job.step or 0}/{job.steps}" if job.steps else ""


def _so_far(job: JobDetail) -> Iterator[tuple[str, str]]:
    """Yield facts of a job's history: the job that it retries, its errors, the limits that a device's memory forced."""
    if job.retry_of:
        yield "retry of", str(job.retry_of)
    if job.faults:
        yield "faults", ", ".join(f"{code} x{count}" for code, count in job.faults.items())
    limits: JsonObject = job.adjusted or {}
    if limits:
        known = {name: value for name, value in limits.items() if value is not None and name != "why"}
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())
        yield "adjusted", told + (f" ({limits['why']})" if limits.get("why") else "")


def _remark(job: JobView) -> str:
    if job.error:
        return job.failure.message
    if job.pause_requested:
        return "pausing"
    return str(job.wait_reason or ("paused" if job.paused else ""))


def _print_events(jobs: JobAccess, words: str, *, follow: bool, as_json: bool) -> None:
    last, job_id = 0, jobs.whole_id(words)
    collected: list[JsonObject] = []
    while True:
        job = jobs.detail(job_id)
        news = jobs.events(job_id, last)
        last = max([last, *(event["id"] for event in news)])
        collected += news
        if not as_json:
            for event in news:
                say(f"{cell(event['at'])}  {event['level']:<7}  {event['kind']:<18} {event['message']}")
        if not follow or job.ended:
            break
        time.sleep(POLL_S)
    if as_json:
        print_json(collected)


def _log_text(jobs: JobAccess, words: str, *, follow: bool) -> Iterator[str]:
    """Yield the job's log files in order, each under its name; with ``follow`` also later lines, until the job ends."""
    shown: dict[str, int] = {}
    named: set[str] = set()
    job_id = jobs.whole_id(words)
    while True:
        job = jobs.detail(job_id)
        for name, text in jobs.log_news(job, shown):
            if name not in named:
                named.add(name)
                yield f"==> {name} <==\n"
            yield text
        if job.ended or not follow:
            break
        time.sleep(POLL_S)
    if not named:
        say(f"Job {words} has written no log yet; see celora status {words}", err=True)
