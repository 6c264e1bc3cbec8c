"""Commands about jobs that exist: ``status``, ``list``, ``logs``, ``cancel``, ``evaluate``."""

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ..models import history
from ..models.states import Stage, Status
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from .contest import competed, contest, verdict
from .output import Json, cell, console, duration, money, print_json, table
from .precision import Precision
from .record import record

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
POLL_S = 0.5
METRICS = ("eval_loss", "perplexity", "exact_match", "rouge_l", "bleu")

SIDES = ("base", "champion", "tuned")

Summary = dict[str, Any]


def summary(job_id: str) -> Summary:
    """A job as the record has it.

    Raises:
        NotFoundError: There is no such job.
    """
    with record().session() as session:
        return history.job_summary(session, job_id)


def status(job_id: JobId, *, as_json: Json = False) -> None:
    """Show where a job stands and, if it waits, why.

    Example: `celora status 019a…`
    """
    job = summary(job_id)
    if as_json:
        print_json(job)
        return
    out = console()
    for name, value in _facts(job):
        out.print(f"{name:<10} {value}", markup=False)
    if job.get("metrics"):
        out.print(compared(job["metrics"]))
    evaluation: Summary = job.get("evaluation") or {}
    served: dict[str, Summary] = evaluation.get("serving") or {}
    for dtype, told in served.items():
        out.print(f"\non the unquantized base in {dtype}, as it will be served:", markup=False)
        out.print(compared(told["metrics"]))


def list_(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's jobs.")] = None,
    state: Annotated[Status | None, typer.Option("--status", help="Only jobs of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first.

    Example: `celora list --status running`
    """
    with record().session() as session:
        jobs = history.list_jobs(session, tenant=tenant, status=state, limit=limit)
    if as_json:
        print_json(jobs)
        return
    if not jobs:
        typer.echo("No job. Submit one: celora submit --base-model smollm2-135m-instruct --dataset train.jsonl")
        return
    columns = ["id", "status", "stage", "step", "tenant", "gpu", "created", ""]
    console().print(
        table(
            columns,
            [
                (
                    job["id"],
                    job["status"],
                    job["stage"],
                    _step(job),
                    job["tenant"],
                    job.get("gpu_type") or job["gpu"],
                    job["created_at"],
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
    as_json: Json = False,
) -> None:
    """Print what a job's processes wrote, stage after stage, or what the record says happened.

    Example: `celora logs 019a… -f`
    """
    if events or as_json:
        _print_events(job_id, follow=follow, as_json=as_json)
        return
    for text in _log_text(job_id, follow=follow):
        typer.echo(text, nl=False)


def cancel(job_id: JobId, *, as_json: Json = False) -> None:
    """Cancel a job; what runs of it is stopped and its memory freed.

    Example: `celora cancel 019a…`
    """
    from ..tasks import submission  # noqa: PLC0415  (Celery takes a third of a second to import)

    job_id = summary(job_id)["id"]
    answer = submission.cancel(job_id)
    if as_json:
        print_json({"id": job_id, "answer": answer, "status": str(summary(job_id)["status"])})
        return
    words = {
        "cancelled": "is cancelled.",
        "cancelling": "is being cancelled; its worker stops it.",
        "final": f"had ended before; it is {summary(job_id)['status']}.",
    }
    typer.echo(f"Job {job_id} {words.get(answer, answer)}")


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
    from ..tasks import submission  # noqa: PLC0415  (Celery takes a third of a second to import)

    job_id = summary(job_id)["id"]
    submission.evaluate_again(job_id, serving_dtype.dtype if serving_dtype else None)
    if as_json:
        print_json({"id": job_id})
    else:
        typer.echo(f"Job {job_id} is being evaluated again; see celora status {job_id}")


def told_outcome(job: Summary, *, as_json: bool) -> None:
    """Print how a job ended: what programs may build on, or a few lines for people; an error in one sentence."""
    if as_json:
        metrics: Summary = job.get("metrics") or {}
        measured = {who: {name: metrics.get(who, {}).get(name) for name in METRICS} for who in ("base", "tuned")}
        print_json(
            {
                "id": job["id"],
                "status": job["status"],
                "adapter": job.get("adapter"),
                "cost": job.get("cost"),
                "metrics": measured if metrics else None,
                "champion": verdict(job),
                "error": job.get("error"),
            }
        )
    elif job["status"] == Status.COMPLETED:
        out = console()
        out.print(f"Job {job['id']} is completed.", markup=False)
        out.print(f"adapter    {job['adapter']}\ncost       {money(job.get('cost'))}", markup=False)
        if told := competed(job):
            out.print(f"champion   {told}", markup=False)
        if job.get("metrics"):
            out.print(compared(job["metrics"]))
        out.print(f"Take it: celora pull {job['id']}", markup=False)
    if job["status"] != Status.COMPLETED:
        error: Summary = job.get("error") or {}
        sentence = f"{error.get('message', '')} {error.get('hint', '')}".strip()
        typer.echo(f"celora: job {job['id']} is {job['status']}{': ' + sentence if sentence else '.'}", err=True)


def compared(metrics: Summary) -> Any:
    """Base against tuned, and the champion of that moment where there was one, a row per measure and held-out set."""
    sets: dict[str, Any] = metrics.get("sets") or {"eval": metrics}
    sides = [who for who in SIDES if who in metrics]
    rows = [
        (name if number == 0 else " ", measure, *(values.get(who, {}).get(measure) for who in sides))
        for name, values in sets.items()
        for number, measure in enumerate(METRICS)
    ]
    return table(["set", "measure", *sides], rows)


def _facts(job: Summary) -> Iterator[tuple[str, str]]:
    told = "pausing" if job.get("pause_requested") else job.get("reason")
    yield "job", str(job["id"])
    yield "status", " ".join(filter(None, [str(job["status"]), told and f"({told})"]))
    yield "stage", f"{job['stage']}, {_step(job)}" if job.get("steps") else str(job["stage"])
    if job.get("wait_reason"):
        yield "waits", str(job["wait_reason"])
    if job.get("error"):
        error: dict[str, Any] = job["error"]
        yield "error", f"{error.get('message', '')} {error.get('hint', '')}".strip()
    yield "base", cell(job.get("base_model"))
    versions: dict[str, dict[str, Any]] = job.get("datasets") or {}
    for role, seen in versions.items():
        label = "dataset" if role == "train" else "eval"
        yield label, f"{seen['name']}@{seen['version']}" + ("" if role in ("train", "eval") else f" ({role})")
    yield "tenant", str(job["tenant"])
    yield "device", cell(job.get("gpu_type") or job.get("gpu")) + (f" on {job['worker']}" if job.get("worker") else "")
    yield "attempt", str(job["attempt"])
    yield from _so_far(job)
    yield "created", cell(job["created_at"])
    if job.get("loss") is not None:
        yield "loss", cell(job["loss"])
    if job.get("tokens_per_s"):
        yield "speed", f"{job['tokens_per_s']:.0f} tokens/s, {duration(job.get('eta_s'))} left"
    if job.get("trainable_parameters"):
        yield "trainable", f"{job['trainable_parameters']:,} ({job.get('trainable_share') or 0:.2%})"
    if job.get("stage_seconds"):
        yield "time", ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in job["stage_seconds"].items())
    if job.get("gpu_seconds"):
        yield "cost", f"{money(job.get('cost'))} ({duration(job['gpu_seconds'])} held)"
    if job.get("adapter"):
        yield "adapter", str(job["adapter"])
    yield from contest(job)
    warnings: list[str] = job.get("warnings") or []
    yield from (("warning", warning) for warning in warnings)


def _step(job: Summary) -> str:
    return f"{job.get('step') or 0}/{job['steps']}" if job.get("steps") else ""


def _so_far(job: Summary) -> Iterator[tuple[str, str]]:
    """What a job has been through: of which it is a retry, its errors, what a device's memory forced on it."""
    if job.get("retry_of"):
        yield "retry of", str(job["retry_of"])
    if job.get("faults"):
        yield "faults", ", ".join(f"{code} x{count}" for code, count in job["faults"].items())
    limits: Summary = job.get("adjusted") or {}
    if limits:
        known = {name: value for name, value in limits.items() if value is not None and name != "why"}
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())
        yield "adjusted", told + (f" ({limits['why']})" if limits.get("why") else "")


def _remark(job: Summary) -> str:
    if job.get("error"):
        return str(job["error"].get("message", ""))
    if job.get("pause_requested"):
        return "pausing"
    return str(job.get("wait_reason") or ("paused" if job.get("paused") else ""))


def _print_events(job_id: str, *, follow: bool, as_json: bool) -> None:
    last = 0
    collected: list[dict[str, Any]] = []
    while True:
        job = summary(job_id)
        with record().session() as session:
            news = [event for event in history.events(session, job_id) if event["id"] > last]
        last = max([last, *(event["id"] for event in news)])
        collected += news
        if not as_json:
            for event in news:
                typer.echo(f"{cell(event['at'])}  {event['level']:<7}  {event['kind']:<18} {event['message']}")
        if not follow or Status(job["status"]).final:
            break
        time.sleep(POLL_S)
    if as_json:
        print_json(collected)


def _log_text(job_id: str, *, follow: bool) -> Iterator[str]:
    """The job's log files in order, each under its name; with ``follow`` what is added, until the job has ended."""
    shown: dict[str, int] = {}
    while True:
        job = summary(job_id)
        for name, content in _log_files(job):
            if name not in shown:
                yield f"==> {name} <==\n"
            if len(content) < shown.get(name, 0):  # its middle was cut out meanwhile
                shown[name] = len(content)
            yield content[shown.get(name, 0) :].decode("utf-8", errors="replace")
            shown[name] = len(content)
        if Status(job["status"]).final or not follow:
            break
        time.sleep(POLL_S)
    if not shown:
        typer.echo(f"Job {job_id} has written no log yet; see celora status {job_id}", err=True)


def _log_files(job: Summary) -> Iterator[tuple[str, bytes]]:
    """Name and content of each log there is: one per attempt and stage."""
    artifacts = Artifacts(get_settings().artifacts)
    for attempt in range(1, int(job["attempt"]) + 1):
        for stage in Stage:
            name = f"{attempt:03d}-{stage}.log"
            uri = artifacts.uri("jobs", job["id"], "logs", name)
            there = artifacts.local_path(uri)
            if there is None and artifacts.exists(uri):
                there = get_settings().scratch / job["id"] / "pulled" / name
                artifacts.get_file(uri, there)
            if there is not None and there.is_file():
                yield name, there.read_bytes()
