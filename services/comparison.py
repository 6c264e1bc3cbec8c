"""Compares two or more adapters, or an adapter and its bare base, on the same rows.

The rows come from stored evaluations: one evaluation with the answers of all contestants (a challenger's holds its
champion's and the base's), or else each contestant's own, where those are of the same rows. ``measured_now`` measures
all contestants instead, in one process on one loaded base, on the held-out rows of the first.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SettingsError, of_code
from ..models.columns import Evaluated, base_identity, evaluated_of, measured_sets
from ..models.jobs.stage_results import base_of, trained_of
from ..models.ratings import BASE
from ..models.spec import stored_spec
from ..models.tables import Job
from ..models.tables.types import JsonObject
from ..settings.gpus import gpu_catalogue
from ..settings.secrets import secrets_of_job
from ..settings.settings import Settings
from ..storage.artifacts import Artifacts
from ..tuning.evaluation.measures import (
    LABELS,
    LOWER_IS_BETTER,
    MEASURES,
    METRICS_VERSION,
    TOOL_MEASURES,
    Line,
    measured,
    pairs,
)
from ..tuning.evaluation.result_rows import identity, read
from ..tuning.evaluation.significance import paired_bootstrap
from ..tuning.protocol import EvaluateRequest, Rival
from ..tuning.recipe import ResolvedRecipe
from ..workers.gpu import devices
from ..workers.stages.evaluate import SIDE
from ..workers.stages.workspace import Workspace
from ..workers.trainer.requests import hub_access, owner_of
from ..workers.trainer.supervisor import Handler, TrainerError, run_once

RESAMPLES = 2000
PARTS = ("", "exact_", "loss_", "rouge_1_", "rouge_2_", "rouge_l_", "bleu_")
"""Prefixes of a side's name in a line (``tuning/evaluation/result_rows.py``)."""
SPARSE = ("exact_raw_", "words_", *(f"{name}_" for name in TOOL_MEASURES))
"""Prefixes of measures that only some lines have."""
COMPARABLE = ("max_new_tokens", "decoding", "compute_dtype", "quantization")
"""Settings of an evaluation that change its numbers."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One side of a comparison: a label for people and a job; None is the bare base model."""

    label: str
    job: Job | None = None

    @property
    def key(self) -> str:
        """The job's id, or ``base``."""
        return self.job.id if self.job is not None else BASE


@dataclass(frozen=True, slots=True)
class Compared:
    """The answers of the contestants to the same rows.

    Attributes:
        labels: Labels of the contestants, in order; in the lines the first is side ``s0``, the next ``s1``.
        sets: Lines by held-out set.
        together: True where all were measured in one process on one loaded base.
        notes: Differences between the measurements, in words.
    """

    labels: list[str]
    sets: dict[str, list[Line]]
    together: bool
    notes: list[str] = field(default_factory=list[str])


def stored(artifacts: Artifacts, contestants: Sequence[Contestant]) -> Compared:
    """Collect the answers of the contestants from stored evaluations.

    Raises:
        SettingsError: The contestants were not evaluated on the same rows; the hint names the option for it.
        StorageError: The rows are gone.
    """
    for host in contestants:
        sides = _sides(host)
        if all(each.key in sides for each in contestants):
            chosen = [sides[each.key] for each in contestants]
            sets = {name: _sided(lines, chosen) for name, lines in _sets(artifacts, host).items()}
            return Compared([each.label for each in contestants], sets, together=True)
    return _aligned(artifacts, contestants)


def measured_now(settings: Settings, contestants: Sequence[Contestant], on_event: Handler) -> Compared:
    """Measure all contestants on this machine, on the held-out rows of the first that is a job.

    Raises:
        SettingsError: The contestants have different bases, or the first has no held-out rows.
        CeloraError: The measurement failed.
    """
    host = next(each for each in contestants if each.job is not None)
    others = [each for each in contestants if each.job is not None and each is not host]
    _require_one_base(host, others)
    with tempfile.TemporaryDirectory(prefix="celora-compare-") as folder:
        request = _request(settings, host, others, Path(folder) / "evaluation")
        try:
            run_once(
                request,
                on_event,
                log=settings.logs / "compare.log",
                environment=_hub_token(settings, host),
            )
        except TrainerError as error:
            raise of_code(str(error.error.get("code")))(error.message, hint=error.hint) from None
        sides = {BASE: "base", host.key: "tuned", **{each.key: f"rival_{i}" for i, each in enumerate(others)}}
        chosen = [sides[each.key] for each in contestants]
        files = sorted((Path(folder) / "evaluation").glob("rows.*.jsonl"))
        sets = {path.name[5:-6]: _sided(read(path.read_bytes()), chosen) for path in files}
    if not sets:
        raise SettingsError(f"job {host.key} has no held-out rows to compare on.", hint="Put one first that has some.")
    ordered = {name: sets[name] for name in _set_names(host) if name in sets}
    return Compared([each.label for each in contestants], ordered or sets, together=True)


def _hub_token(settings: Settings, host: Contestant) -> dict[str, str]:
    tenant = host.job.tenant if host.job is not None else ""
    return secrets_of_job(settings.home, tenant, ["HF_TOKEN"], {}, shared=settings.shared_secrets)


def figures(lines: Sequence[Line], one: str, other: str, *, confidence: float = 0.95) -> dict[str, dict[str, Any]]:
    """Compute each measure of two sides: both values, the difference of the second to the first, and its interval.

    ``better`` names the side that is better beyond chance: ``one``, ``other`` or None.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in LABELS:
        if name not in MEASURES:
            continue
        theirs, ours = pairs(lines, one, other, name)
        if not ours:
            continue
        interval = paired_bootstrap(ours, theirs, MEASURES[name], confidence=confidence, resamples=RESAMPLES)
        sure = interval.low > 0 or interval.high < 0
        rises = (interval.value > 0) != (name in LOWER_IS_BETTER)
        found[name] = {
            "one": measured(lines, one, name),
            "other": measured(lines, other, name),
            "difference": interval.value,
            "low": interval.low,
            "high": interval.high,
            "rows": interval.count,
            "better": ("other" if rises else "one") if sure else None,
        }
    return found


def changed(lines: Sequence[Line], one: str, other: str) -> tuple[list[Line], list[Line]]:
    """Find the rows that the second side answered better than the first, and worse; the largest change first.

    Rows are ordered by exact match, then by ROUGE-L; rows without an answer of both sides are left out.
    """
    scored = [(_gain(line, one, other), line) for line in lines if line.get(one) is not None is not line.get(other)]
    better = sorted((pair for pair in scored if pair[0] > (0, 0)), key=lambda pair: pair[0], reverse=True)
    worse = sorted((pair for pair in scored if pair[0] < (0, 0)), key=lambda pair: pair[0])
    return [line for _, line in better], [line for _, line in worse]


def _gain(line: Line, one: str, other: str) -> tuple[float, float]:
    exact = float(bool(line.get(f"exact_{other}"))) - float(bool(line.get(f"exact_{one}")))
    rouge = (line.get(f"rouge_l_{other}") or 0.0) - (line.get(f"rouge_l_{one}") or 0.0)
    return exact, rouge


def _sides(host: Contestant) -> dict[str, str]:
    """Map the jobs (or ``base``) with answers in a contestant's own evaluation to their sides.

    An evaluation of an older version of the measures counts as none.
    """
    found = Evaluated.read(host.job.evaluation) if host.job is not None else None
    if found is None or found.metrics_version < METRICS_VERSION:
        return {}
    met = found.champion
    also = {str(met.job): SIDE} if met is not None and met.compared else {}
    return {**also, BASE: "base", host.key: "tuned"}


def _is_old(job: Job) -> bool:
    """Check if a job was measured by an older version of the measures."""
    found = Evaluated.read(job.evaluation)
    return found is not None and found.metrics_version < METRICS_VERSION


def _sets(artifacts: Artifacts, host: Contestant) -> dict[str, list[Line]]:
    uri = evaluated_of(host.job).uri if host.job else ""
    return {name: read(artifacts.read_bytes(f"{uri}/rows.{name}.jsonl")) for name in _set_names(host)}


def _set_names(host: Contestant) -> list[str]:
    return list(measured_sets(host.job)) if host.job else []


def _sided(lines: Sequence[Line], chosen: Sequence[str], start: int = 0) -> list[Line]:
    """Reduce lines to the chosen sides, renamed to ``s0``, ``s1`` and so on."""
    shared = ("row", "line", "prompt", "reference", "tokens")
    sides = list(enumerate(chosen, start))
    return [
        {
            **{name: line.get(name) for name in shared},
            **{f"{part}s{i}": line.get(f"{part}{side}") for i, side in sides for part in PARTS},
            **{f"{part}s{i}": line[f"{part}{side}"] for i, side in sides for part in SPARSE if f"{part}{side}" in line},
        }
        for line in lines
    ]


def _aligned(artifacts: Artifacts, contestants: Sequence[Contestant]) -> Compared:
    """Join the contestants' own evaluations where their rows are the same."""
    jobs = [each for each in contestants if each.job is not None]
    own = {each.key: _sets(artifacts, each) if _sides(each) else {} for each in jobs}
    first = jobs[0]
    sets: dict[str, list[Line]] = {}
    for name, lines in own[first.key].items():
        same = {each.key: _same_rows(lines, own[each.key]) for each in jobs}
        if all(found is not None for found in same.values()):
            merged = [dict(line) for line in _sided(lines, [])]
            for i, each in enumerate(contestants):
                source, side = (same[each.key], "tuned") if each.job else (lines, "base")
                for line, more in zip(merged, _sided(source or [], [side], i), strict=True):
                    line |= {name: value for name, value in more.items() if name.endswith(f"s{i}")}
                    line[f"tokens_s{i}"] = more["tokens"]
            sets[name] = merged
    if not sets:
        told = " and ".join(each.label for each in contestants)
        if old := [each.label for each in jobs if each.job is not None and _is_old(each.job)]:
            raise SettingsError(
                f"{' and '.join(old)} {'was' if len(old) == 1 else 'were'} measured by an older version, whose numbers "
                "mean something else.",
                hint="Add --run: all are measured now. Or measure again: celora evaluate ID.",
            )
        raise SettingsError(
            f"{told} were not evaluated on the same rows, so their numbers can't be compared.",
            hint="Add --run: all are measured now, here, on the held-out rows of the first.",
        )
    return Compared([each.label for each in contestants], sets, together=False, notes=_notes(artifacts, jobs, sets))


def _same_rows(lines: Sequence[Line], sets: dict[str, list[Line]]) -> list[Line] | None:
    wanted = identity(lines)
    return next((found for found in sets.values() if identity(found) == wanted), None)


def _notes(artifacts: Artifacts, jobs: Sequence[Contestant], sets: dict[str, list[Line]]) -> list[str]:
    """Describe the differences between separate evaluations; remove the losses of different bases."""
    notes = ["they were measured apart, each in its own evaluation (--run measures them together)"]
    how = [_settings_of(artifacts, each) for each in jobs]
    notes += [
        f"{name} was not the same: {', '.join(str(each.get(name)) for each in how)}"
        for name in COMPARABLE
        if len({str(each.get(name)) for each in how}) > 1
    ]
    bases = {str((each.job.base if each.job else None) or {}) for each in jobs}
    if len(bases) > 1:
        notes.append("their bases differ, so losses (of other tokens) are left out")
        for lines in sets.values():
            for line in lines:
                line |= {name: None for name in line if name.partition("_")[0] == "tokens"}
    return notes


def _settings_of(artifacts: Artifacts, each: Contestant) -> JsonObject:
    uri = evaluated_of(each.job).uri if each.job else ""
    found: JsonObject = artifacts.read_json(f"{uri}/evaluation.json")
    return found.get("settings") or {}


def _require_one_base(host: Contestant, others: Sequence[Contestant]) -> None:
    bases = {base_identity(each.job).revision: each for each in (host, *others) if each.job is not None}
    if len(bases) > 1:
        told = ", ".join(f"{each.label} on {base_identity(each.job).name}" for each in bases.values() if each.job)
        raise SettingsError(
            f"they can't be measured in one process, which loads one base: {told}.",
            hint="Evaluate each with the same eval_dataset; celora compare then puts their rows side by side.",
        )


def _request(settings: Settings, host: Contestant, others: Sequence[Contestant], out: Path) -> EvaluateRequest:
    job = host.job
    if job is None or job.result is None:
        raise SettingsError(f"{host.label} has no finished adapter.", hint=f"See `celora status {host.key}`.")
    spec, places = stored_spec(job.spec), Workspace(settings, job.id, job.attempt)
    return EvaluateRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings),
        threads=settings.trainer_threads,
        base=base_of(job),
        prepared_dir=str(places.fetch(str(job.prepared_uri), "prepared")),
        adapter_dir=str(places.fetch(trained_of(job).adapter_uri, "adapter")),
        recipe=ResolvedRecipe.model_validate(job.resolved),
        metrics=list(spec.metrics) or ["exact_match"],
        max_rows=spec.eval_max_rows,
        max_new_tokens=spec.eval_max_new_tokens,
        rivals=[
            Rival(side=f"rival_{i}", adapter_dir=str(places.fetch(str(each.job.adapter_uri), f"rival-{i}")))
            for i, each in enumerate(others)
            if each.job is not None
        ],
        out_dir=str(out),
        device="cuda" if devices(gpu_catalogue(settings.gpus)) else "cpu",
        owner=owner_of(job.tenant, settings),
    )
