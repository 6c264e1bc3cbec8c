"""Simulates the queue's policy: on a scenario from a file, or on the jobs of the record."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import select

from ...errors import SettingsError
from ...models.database import get_database, now
from ...models.queue.waiting import HEAD, Head, in_queue
from ...models.scope.scope import Scope
from ...models.states import Stage
from ...models.tables import Job
from ...scheduling.scenario import MOST_JOBS, parse_scenario
from ...scheduling.simulation import simulate
from ...scheduling.simulation_report import Report, report
from ...settings.gpus import gpu_catalogue
from ...settings.settings import get_settings
from ..rounds.queue_facts import read_queue, waiting_of

MOST_BYTES = 64 * 2**20
Fields = dict[str, Any]


def read_file(path: Path) -> Fields:
    """Read a scenario.

    Raises:
        SettingsError: The file cannot be read, is too large, or is no YAML mapping.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SettingsError(f"{path} is larger than {MOST_BYTES // 2**20} MiB.", hint="Write bursts of jobs.")
        found: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"{path} can't be read as a scenario: {reason}.", hint="Write YAML in UTF-8.") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{path} holds no scenario.", hint="Begin it with `cluster:`, `tenants:` and `jobs:`.")
    return dict(found)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def write_file(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a scenario as YAML."""
    path.write_text(yaml.safe_dump(dict(fields), sort_keys=False), encoding="utf-8")


def record_scenario() -> Fields:
    """Make a scenario of the record: its workers, its tenants and their use, the jobs that hold a slot or wait.

    A job without an estimate takes as long as the policy charges it for. Jobs that run begin anew.

    Raises:
        SettingsError: No worker is online, or nothing waits.
    """
    settings = get_settings()
    with get_database().session(Scope.everything) as session:
        at = now(session)
        facts = read_queue(session, settings, at)
        mine = select(*HEAD).where(in_queue(), Job.stage != Stage.PUBLISH).order_by(Job.created_at).limit(MOST_JOBS)
        jobs = [waiting_of(Head(*row)) for row in session.execute(mine)]
    unknown = {"*": facts.rules.unknown_s}
    cluster = [
        {"type": node.gpu_type, "count": node.slots, "memory_gib": node.memory_bytes / 2**30, "tenant": node.tenant,
         "labels": sorted(node.labels)}
        for node in facts.nodes if node.kind == "gpu" and not node.obstacle
    ]  # fmt: skip
    running = [
        {"tenant": held.tenant, "id": held.job_id, "gpu": held.gpu_type, "recovered": True,
         "class": held.job_class.value,
         "seconds": unknown if held.expected_s is None else {"*": max(1.0, held.expected_s - held.elapsed_s(at))}}
        for held in facts.holdings if held.gpu_type is not None and not held.outside
    ]  # fmt: skip
    waiting = [
        {"tenant": job.tenant, "id": job.id, "gpu": job.gpu, "priority": job.priority, "class": job.job_class.value,
         "labels": job.labels.split(",") if job.labels else [], "memory_gib": (job.memory_bytes or 0) / 2**30,
         "recovered": job.recovered, "estimated": bool(job.expected_s),
         "seconds": {name: max(1.0, each) for name, each in (job.expected_s or unknown).items()}}
        for job in jobs
    ]  # fmt: skip
    if not cluster or not running + waiting:
        missing = "no GPU worker is online" if not cluster else "no job waits or runs"
        raise SettingsError(f"there is nothing to simulate: {missing}.", hint="Give a scenario file instead.")
    accounts = facts.standing.accounts
    return {
        "cluster": cluster,
        "tenants": {
            name: {"weight": account.weight, "max_gpus": account.max_gpus, "used_gpu_hours": account.used_s / 3600}
            for name, account in accounts.items()
        },
        "settings": {
            "half_life_hours": facts.rules.half_life_s / 3600,
            "aging_hours": facts.rules.aging_s / 3600,
            "auto_wait_minutes": facts.rules.auto_wait_s / 60,
            "preemption": facts.rules.preemption,
        },
        "jobs": running + waiting,
    }


def changed(fields: Fields, *, weights: Mapping[str, float], half_life_hours: float | None) -> Fields:
    """Return a scenario with other weights and another half-life."""
    known: dict[str, Fields | None] = fields.get("tenants") or {}
    tenants: dict[str, Fields] = {name: dict(each or {}) for name, each in known.items()}
    for name, weight in weights.items():
        tenants.setdefault(name, {})["weight"] = weight
    settings = dict(fields.get("settings") or {})
    if half_life_hours is not None:
        settings["half_life_hours"] = half_life_hours
    return {**fields, "tenants": tenants, "settings": settings}


def run(fields: Fields, policies: Sequence[str]) -> list[Report]:
    """Simulate a scenario under each of the policies.

    Raises:
        SettingsError: The scenario is wrong; the message says where.
    """
    types = gpu_catalogue(get_settings().gpus)
    scenario = parse_scenario(fields, types)
    nodes, accounts, tasks = scenario.nodes(types), scenario.accounts(), scenario.tasks()
    rules = scenario.settings.rules()
    weights = {name: account.weight for name, account in accounts.items()}
    return [
        report(simulate(tasks, nodes, accounts, types=types, rules=rules, policy=policy), tasks, weights, len(nodes))
        for policy in policies
    ]


def plain(one: Report) -> Fields:
    """Return a report as a plain dict."""
    return asdict(one)
