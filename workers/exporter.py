"""Exports the installation's figures to Prometheus, from the record, the broker and this machine's devices.

Unusual: no worker process keeps counters. Each scrape reads the record, so figures survive every restart and are right
for any number of workers; run one exporter for an installation. Labels are names of tenants, workers, queues and GPU
types; they hold no job's id, text or secret.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from ..errors import CeloraError
from ..models.database import Database
from ..models.jobs import metrics
from ..models.jobs.metrics import Reader, Totals, Unfinished
from ..models.queue import metrics as queue_metrics
from ..models.queue.metrics import Share
from ..models.scope.scope import Scope
from ..models.states import Stage, common_queue
from ..models.tables import Worker
from ..models.workers import Resident, obstacle
from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings
from . import queues
from .celery import app
from .dropped_messages import DroppedMessages
from .gpu import Load, loads
from .messages import UNREACHABLE

logger = logging.getLogger(__name__)

BUCKETS_S = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0, 72 * 3600.0)
"""Bounds of the histogram of stages, which run for seconds to days."""

Values = GaugeMetricFamily | CounterMetricFamily
Family = Values | HistogramMetricFamily


class Exporter(Collector):
    """Answers a scrape with the figures of the record at that moment.

    Args:
        database: The record.
        settings: Settings of the installation.
        reader: Sums the figures that only grow.
    """

    def __init__(self, database: Database, settings: Settings, reader: Reader | None = None) -> None:
        self._database, self._settings = database, settings
        self._reader = reader or Reader()
        self._histogram = _Histogram()

    def catch_up(self) -> None:
        """Read the whole history once before the first scrape: for many jobs that takes longer than a scrape may."""
        with self._database.session(Scope.everything) as session:
            self._histogram.take(self._reader.read(session).stages)

    def collect(self) -> Iterator[Family]:
        """Yield every metric family; those of an unreachable part are missing, which ``celora_record_up`` shows."""
        began = time.monotonic()
        yield _gauge("celora_info", "Version of this exporter.", {"version": version("celora")}, 1)
        try:
            with self._database.session(Scope.everything) as session:
                unfinished, workers = metrics.unfinished(session), metrics.workers(session)
                age_s, unannounced = metrics.reaper_age_s(session), metrics.unannounced(session)
                tries, totals = metrics.attempts(session), self._reader.read(session)
                ages = queue_metrics.waiting_ages(session)
                shares = queue_metrics.shares(session, self._settings.share_half_life_hours * 3600)
        except (SQLAlchemyError, CeloraError) as error:
            logger.warning("the record cannot be read: %s", error)
            yield _gauge("celora_record_up", "Whether the record can be read.", {}, 0)
        else:
            self._histogram.take(totals.stages)
            yield _gauge("celora_record_up", "Whether the record can be read.", {}, 1)
            yield from _waiting(unfinished, self._settings)
            yield _ages(ages)
            yield from _shares(shares)
            yield from _at_work(unfinished)
            yield from _workforce(workers, unfinished, self._settings)
            yield from _hosts(workers)
            yield from _history(totals)
            yield _attempts(tries)
            yield self._histogram.family()
            yield _gauge("celora_unannounced_jobs", "Ended jobs whose callers were not told yet.", {}, unannounced)
            if age_s is not None:
                yield _gauge("celora_reaper_age_seconds", "Seconds since a reaper last looked.", {}, age_s)
        yield from self._broker()
        yield from _devices(self._loads())
        yield _gauge("celora_scrape_seconds", "Time that this scrape took.", {}, time.monotonic() - began)

    def _loads(self) -> list[Load]:
        try:
            return loads(gpu_catalogue(self._settings.gpus))
        except CeloraError as error:
            logger.warning("this machine's devices cannot be read: %s", error)
            return []

    def _broker(self) -> Iterator[Family]:
        names = [queue.name for queue in queues.declared(gpu_catalogue(self._settings.gpus))]
        up = "Whether the broker can be reached."
        try:
            waiting = queues.depths(app, names)
        except UNREACHABLE as error:
            logger.warning("the broker cannot be asked: %s", type(error).__name__)
            yield _gauge("celora_broker_up", up, {}, 0)
            return
        yield _gauge("celora_broker_up", up, {}, 1)
        family = GaugeMetricFamily(
            "celora_broker_depth", "Messages in a queue, all priorities together.", labels=["queue"]
        )
        for name, count in waiting.items():
            _add(family, [name], count)
        yield family
        yield from self._dropped()

    def _dropped(self) -> Iterator[Family]:
        family = CounterMetricFamily(
            "celora_messages_dropped", "Malformed messages that workers dropped, by queue.", labels=["queue"]
        )
        try:
            with app.connection_for_read() as connection:
                channel: Any = connection.default_channel
                with channel.conn_or_acquire() as client:
                    counts = DroppedMessages(client).counts()
        except UNREACHABLE as error:
            logger.warning("the dropped messages cannot be counted: %s", type(error).__name__)
            return
        for name, count in sorted(counts.items()):
            _add(family, [name], count)
        yield family


class _Histogram:
    """Counts the seconds of stages, kept from scrape to scrape."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def take(self, runs: list[tuple[str, str, float]]) -> None:
        for stage, outcome, seconds in runs:
            key = (stage, outcome)
            counts = self._counts.setdefault(key, [0] * (len(BUCKETS_S) + 1))
            counts[next((n for n, limit in enumerate(BUCKETS_S) if seconds <= limit), len(BUCKETS_S))] += 1
            self._sums[key] = self._sums.get(key, 0.0) + seconds

    def family(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            "celora_stage_seconds", "How long stages ran, by how the run ended.", labels=["stage", "outcome"]
        )
        for key, counts in sorted(self._counts.items()):
            below, buckets = 0, list[tuple[str, float]]()
            for limit, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
                below += count
                buckets.append((limit, below))
            family.add_metric(list(key), buckets=buckets, sum_value=self._sums[key])
        return family


def _waiting(unfinished: Unfinished, settings: Settings) -> Iterator[Family]:
    jobs = GaugeMetricFamily("celora_jobs", "Jobs that are not over.", labels=["queue", "status"])
    for (queue, status), count in sorted(unfinished.counts.items()):
        _add(jobs, [queue, status], count)
    yield jobs
    yield _gauge("celora_jobs_paused", "Jobs that a person paused.", {}, unfinished.paused)
    oldest = GaugeMetricFamily(
        "celora_oldest_waiting_seconds", "How long the longest waiting job has waited.", labels=["queue"]
    )
    for queue, seconds in sorted(unfinished.oldest_s.items()):
        _add(oldest, [queue], seconds)
    yield oldest
    lease = GaugeMetricFamily(
        "celora_lease_age_seconds", "Seconds since the lease of a queue's running jobs was renewed, the oldest.",
        labels=["queue"],
    )  # fmt: skip
    ages: dict[str, float] = {}
    for job in unfinished.running:
        left_s = (job.lease_until - unfinished.at).total_seconds() if job.lease_until else 0.0
        queue = common_queue(str(job.queue))
        ages[queue] = max(ages.get(queue, 0.0), settings.lease_s - left_s)
    for queue, age_s in sorted(ages.items()):
        _add(lease, [queue], age_s)
    yield lease


def _ages(ages: Mapping[tuple[str, str], Mapping[float, float]]) -> Family:
    family = GaugeMetricFamily(
        "celora_waiting_age_seconds", "Time since waiting jobs were accepted, by quantile.",
        labels=["tenant", "gpu", "quantile"],
    )  # fmt: skip
    for (tenant, gpu), quantiles in sorted(ages.items()):
        for quantile, seconds in quantiles.items():
            _add(family, [tenant, gpu, f"{quantile:g}"], seconds)
    return family


def _shares(shares: Mapping[str, Share]) -> Iterator[Family]:
    used = GaugeMetricFamily("celora_share_used", "Part of the recent GPU time that a tenant used.", labels=["tenant"])
    due = GaugeMetricFamily("celora_share_due", "Part that the tenant's weight gives it.", labels=["tenant"])
    for tenant, share in sorted(shares.items()):
        _add(used, [tenant], share.used)
        _add(due, [tenant], share.due)
    yield from (used, due)


def _at_work(unfinished: Unfinished) -> Iterator[Family]:
    """Yield the latest figures of the running trainers, by worker."""
    labels = ["worker", "gpu_type", "tenant"]
    families = {
        "tokens_per_s": GaugeMetricFamily(
            "celora_tokens_per_second", "Training speed of a running job.", labels=labels
        ),
        "gpu_memory_bytes": GaugeMetricFamily(
            "celora_gpu_memory_bytes", "Device memory that a running job's trainer holds.", labels=labels
        ),
        "gpu_utilisation": GaugeMetricFamily(
            "celora_gpu_utilisation", "Utilisation that a running job's trainer saw, of 100.", labels=labels
        ),
    }
    for job in unfinished.running:
        for name, family in families.items():
            value: float | None = getattr(job, name)
            if name == "tokens_per_s" and job.stage != Stage.TRAIN:
                continue  # later stages keep the last speed of the training
            if value is not None:
                _add(family, [str(job.worker), job.gpu_type or "none", job.tenant], value)
    yield from families.values()


def _workforce(workers: list[Worker], unfinished: Unfinished, settings: Settings) -> Iterator[Family]:
    slots = GaugeMetricFamily("celora_slots", "Slots of the workers that take work, by queue.", labels=["queue"])
    free = GaugeMetricFamily("celora_slots_free", "Those of them that nobody holds.", labels=["queue"])
    count = GaugeMetricFamily("celora_workers", "Workers that are not offline.", labels=["kind", "gpu_type", "state"])
    able: dict[str, int] = {}
    states: dict[tuple[str, str, str], int] = {}
    for worker in workers:
        why = obstacle(worker, settings.foreign_memory_bytes)
        for name in {common_queue(name) for name in worker.queues}:
            able[name] = able.get(name, 0) + (0 if why else worker.slots)
        state = "able" if not why else why.partition(":")[0].split(" ")[0]
        key = (worker.kind, worker.gpu_type or "none", state if state != "somebody" else "occupied")
        states[key] = states.get(key, 0) + 1
    for name, number in sorted(able.items()):
        held = unfinished.counts[name, "queued"] + unfinished.counts[name, "running"]
        _add(slots, [name], number)
        _add(free, [name], max(0, number - held))
    for key, number in sorted(states.items()):
        _add(count, list(key), number)
    yield from (slots, free, count)


def _hosts(workers: list[Worker]) -> Iterator[Family]:
    """Yield the figures of the trainer hosts, which keep a base between jobs, by worker."""
    labels = ["worker", "gpu_type"]
    memory = GaugeMetricFamily(
        "celora_host_memory_bytes", "Memory that a worker's trainer host holds on its device.", labels=labels
    )
    base = GaugeMetricFamily("celora_host_base_bytes", "The part of it that is the base.", labels=labels)
    runs = GaugeMetricFamily("celora_host_runs", "Runs inside a worker's trainer host.", labels=labels)
    age = GaugeMetricFamily("celora_host_age_seconds", "Seconds since a worker's trainer host started.", labels=labels)
    for worker in workers:
        host = Resident.read(worker.resident) if worker.status != "offline" else None
        if host is None:
            continue
        names = [worker.id, worker.gpu_type or "none"]
        _add(memory, names, host.memory_bytes)
        _add(base, names, host.base_bytes)
        _add(runs, names, host.runs)
        _add(age, names, max(0.0, time.time() - host.started_at))
    yield from (memory, base, runs, age)


def _history(totals: Totals) -> Iterator[Family]:
    ended = CounterMetricFamily("celora_jobs_ended", "Jobs that are over.", labels=["gpu_type", "status"])
    for key, number in sorted(totals.ended.items()):
        _add(ended, list(key), number)
    failed = CounterMetricFamily("celora_jobs_failed", "Failed jobs by error code.", labels=["code"])
    for code, number in sorted(totals.failures.items()):
        _add(failed, [code], number)
    retries = CounterMetricFamily("celora_retries", "Attempts that failed and were made again.", labels=["code"])
    for code, number in sorted(totals.retries.items()):
        _add(retries, [code], number)
    attempts = CounterMetricFamily("celora_stage_starts", "Stages that a worker began.")
    _add(attempts, [], totals.events["stage_started"])
    reaped = CounterMetricFamily("celora_reaped", "Jobs taken from lost workers, by what followed.", labels=["reason"])
    _add(reaped, ["returned"], totals.events["worker_lost"])
    _add(reaped, ["gave_up"], totals.failures["worker_lost"])
    preempted = CounterMetricFamily("celora_preemptions", "Jobs that had to give their slot to an urgent one.")
    _add(preempted, [], totals.events["preempt_requested"])
    pauses = CounterMetricFamily("celora_budget_pauses", "Jobs that paused at a limit of money or time.", labels=["of"])
    _add(pauses, ["job"], totals.events["budget_reached"])
    _add(pauses, ["tenant"], totals.events["limit_reached"])
    yield from (ended, failed, retries, attempts, reaped, preempted, pauses)
    for name, text, sums in (
        ("celora_cost_dollars", "What ended jobs cost, US dollars.", totals.cost),
        ("celora_gpu_seconds", "Time that ended jobs held a device.", totals.gpu_seconds),
    ):
        family = CounterMetricFamily(name, text, labels=["tenant", "gpu_type"])
        for key, number in sorted(sums.items()):
            _add(family, list(key), number)
        yield family


def _attempts(tries: dict[str, int]) -> Family:
    family = GaugeMetricFamily("celora_attempts", "Attempts in the record, by how they ended.", labels=["outcome"])
    for outcome, number in sorted(tries.items()):
        _add(family, [outcome], number)
    return family


def _devices(found: list[Load]) -> Iterator[Family]:
    """Yield the figures of this machine's devices, read by NVML; families without values where there is no device."""
    used = GaugeMetricFamily("celora_device_memory_used_bytes", "Used memory.", labels=["device", "gpu_type"])
    total = GaugeMetricFamily("celora_device_memory_bytes", "Memory.", labels=["device", "gpu_type"])
    busy = GaugeMetricFamily("celora_device_utilisation", "Utilisation, of 100.", labels=["device", "gpu_type"])
    for load in found:
        labels = [load.uuid, load.gpu_type]
        _add(used, labels, load.used_bytes)
        _add(total, labels, load.memory_bytes)
        if load.utilisation is not None:
            _add(busy, labels, load.utilisation)
    yield from (used, total, busy)


def _gauge(name: str, text: str, labels: dict[str, str], value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    _add(family, list(labels.values()), value)
    return family


def _add(family: Values, labels: list[str], value: float) -> None:
    family.add_metric(labels, value)
