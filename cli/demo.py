"""Defines ``celora demo``, which runs the whole system once, with real processes and a real training.

No result is prepared: the command starts every process, submits one job through ``finetune.apply_async`` as any
application would, and shows the job's results from the record.
"""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..errors import NotFoundError, UnavailableError
from ..models.columns import evaluated_of
from ..models.scope.scope import Scope
from ..models.states import Status
from ..models.tables import Job
from ..models.tables.types import JsonObject
from ..models.views import JobDetail
from ..settings.settings import get_settings, home_directory
from .jobs import print_outcome
from .local_jobs import detail
from .node import until_interrupted
from .open_record import record
from .output import console, duration, money, say, table
from .watch import follow

if TYPE_CHECKING:
    from ..workers.node.installation import Installation

DATA = Path(__file__).parent / "demo_data"
BASE = "smollm2-135m-instruct"
ACCEPT_S = 60.0
MEASURES = {
    "eval_loss": "eval loss",
    "perplexity": "perplexity",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
}
WHO = ("base", "tuned")
ANSWERS = (("combinations", 2), ("wordings", 1))
"""The number of answers that are shown side by side, by held-out set."""

Seed = Annotated[int, typer.Option(help="Seed of the data order, the adapter's start and dropout.")]


def spec(seed: int) -> dict[str, Any]:
    """The demo's job, as any application would write it."""
    return {
        "base_model": BASE,
        "dataset": str(DATA / "train.jsonl"),
        "eval_dataset": {name: str(DATA / f"eval_{name}.jsonl") for name in ("combinations", "wordings")},
        "tenant": "demo",
        "epochs": 1,
        "micro_batch": 4,
        "effective_batch": 4,
        "warmup_steps": 3,
        "eval_steps": 30,
        "eval_max_new_tokens": 24,
        "seed": seed,
    }


def demo(*, seed: Seed = 1) -> None:
    """Train a real language model on this machine, from the queue to the checked adapter, in about five minutes.

    SmolLM2-135M-Instruct learns to turn a support message into one structured line. Everything lies below CELORA_HOME,
    or in a new folder of `~/.celora/demo` where that is not set.

    Example: `celora demo`
    """
    began = time.monotonic()
    out = console()
    with until_interrupted(), home(), installation(out) as running:
        job = _train(running, spec(seed))
        if job.status == Status.COMPLETED:
            _report(out, job)
    if job.status != Status.COMPLETED:
        print_outcome(job, as_json=False)
        raise typer.Exit(1)
    measured: JsonObject = job.metrics or {}
    base, tuned = (measured[who]["exact_match"] for who in WHO)
    out.print(f"demo: exact match {base:.2f} -> {tuned:.2f} in {time.monotonic() - began:.0f} s")


@contextmanager
def home() -> Generator[Path]:
    """The demo's home: CELORA_HOME where it is set, else a new folder; converted bases are shared by all demos."""
    if os.environ.get("CELORA_HOME"):
        yield home_directory()
        return
    shared = home_directory()
    fresh = shared / "demo" / time.strftime("%Y%m%d-%H%M%S")
    fresh.mkdir(parents=True)
    (shared / "cache").mkdir(exist_ok=True)
    (fresh / "cache").symlink_to(shared / "cache", target_is_directory=True)
    os.environ["CELORA_HOME"] = str(fresh)
    get_settings.cache_clear()
    try:
        yield fresh
    finally:
        del os.environ["CELORA_HOME"]
        get_settings.cache_clear()


@contextmanager
def installation(out: Console) -> Generator["Installation"]:
    """The whole system; Celery's app is imported inside, when the settings know where the broker is."""
    from ..workers.node.installation import Installation  # noqa: PLC0415  (Celery takes a third of a second to import)

    with Installation(flower=False, api=False) as running:
        for line in running.describe():
            out.print(line, style="dim", markup=False)
        yield running


def _train(running: "Installation", fields: dict[str, Any]) -> JobDetail:
    from ..services import jobs  # noqa: PLC0415  (reads the broker's URL when it is imported)
    from ..tasks import finetune  # noqa: PLC0415  (reads the broker's URL when it is imported)

    job_id = finetune.apply_async(kwargs=fields).id
    say(f"job {job_id}: finetune.apply_async(kwargs={{'base_model': {BASE!r}, …}})")
    try:
        _wait_for_row(job_id)
        return follow(job_id, read=detail, alive=_keeping(running))
    except KeyboardInterrupt:
        say("demo: interrupted; ending the job and stopping every process", err=True)
        jobs.cancel(job_id)
        raise


def _keeping(running: "Installation") -> Any:
    """Return a function that restarts the installation's ended processes while the command polls the record."""
    node = running.node
    return node.services.restart_ended if node else lambda: None


def _wait_for_row(job_id: str) -> None:
    """Wait until the control worker has accepted the job.

    Raises:
        UnavailableError: The control worker did not accept the job in time.
    """
    deadline = time.monotonic() + ACCEPT_S
    while time.monotonic() < deadline:
        with record().session(Scope.everything) as session:
            if session.get(Job, job_id) is not None:
                return
        time.sleep(0.1)
    raise UnavailableError(
        f"no control worker accepted job {job_id} within {ACCEPT_S:.0f} s.",
        hint=f"Its log is {get_settings().logs / 'control.log'}.",
    )


def _report(out: Console, job: JobDetail) -> None:
    sets: dict[str, JsonObject] = (job.metrics or {})["sets"]
    rows: list[list[Any]] = []
    for key, label in MEASURES.items():
        rows.append([label, *(held[who].get(key) for held in sets.values() for who in WHO)])
    columns = ["", *(f"{name}, {who}" for name in sets for who in WHO)]
    held_out = ", ".join(f"{held['rows']} {name}" for name, held in sets.items())
    out.print()
    out.print(table(columns, rows, title=f"Base against tuned, on held-out rows ({held_out})"))
    out.print()
    out.print(table(["message", "wanted", "base", "tuned"], _answers(job.id), title="Three answers side by side"))
    out.print()
    for name, value in _facts(job):
        out.print(f"{name:<10} {value}", markup=False)
    for warning in job.warnings or []:
        out.print(f"warning: {warning}", markup=False)


def _answers(job_id: str) -> list[list[str]]:
    with record().session(Scope.everything) as session:
        job = session.get(Job, job_id)
        if job is None:
            raise NotFoundError(f"there is no job {job_id}.")
        samples = evaluated_of(job).samples
    chosen = [s for name, count in ANSWERS for s in [s for s in samples if s["set"] == name][:count]]
    return [[" ".join(s[key].split()) for key in ("prompt", "reference", "base", "tuned")] for s in chosen]


def _facts(job: JobDetail) -> list[list[str]]:
    stages = ", ".join(f"{stage} {duration(took)}" for stage, took in job.stage_seconds.items())
    trainable, share = job.trainable_parameters or 0, job.trainable_share or 0.0
    return [
        ["trainable", f"{trainable:,} weights, {share:.2%} of the model"],
        ["adapter", str(job.adapter)],
        ["time", stages],
        ["cost", f"{money(job.cost)} ({duration(job.gpu_seconds)} of {job.gpu_type})"],
    ]
