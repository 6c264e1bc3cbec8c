"""Two adapters (or more, or the bare base) side by side on the same rows.

The rows come from evaluations that were made: one in which all of them answered (a challenger's knows its champion and
the base), else each one's own, where those are of the same rows. Or all are measured now, in one process on one loaded
base, on the held-out rows of the first.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.ratings import BASE
from ..models.spec import JobSpec
from ..models.tables import Job
from ..settings.errors import SettingsError, of_code
from ..settings.gpus import gpu_catalogue
from ..settings.secrets import Secrets
from ..settings.settings import Settings
from ..storage.artifacts import Artifacts
from ..tuning.evaluated import LABELS, LOWER_IS_BETTER, MEASURES, Line, identity, measured, pairs, read
from ..tuning.protocol import Base, EvaluateRequest, Rival
from ..tuning.recipe import ResolvedRecipe
from ..tuning.significance import paired_bootstrap
from ..workers.gpu import devices
from ..workers.places import Places
from ..workers.supervisor import Handler, TrainerError, run_once
from .contest import SIDE
from .prepare import hub_access

RESAMPLES = 2000
PARTS = ("", "exact_", "loss_", "rouge_1_", "rouge_2_", "rouge_l_", "bleu_")
"""What a side's name is prefixed with in a line (tuning.evaluated)."""
COMPARABLE = ("max_new_tokens", "decoding", "compute_dtype", "quantization")
"""Settings of an evaluation that move its numbers."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One of those that are compared: a label for people, and its job; None is the bare base model."""

    label: str
    job: Job | None = None

    @property
    def key(self) -> str:
        """Its job's id, or ``base``."""
        return self.job.id if self.job is not None else BASE


@dataclass(frozen=True, slots=True)
class Compared:
    """What contestants answered to the same rows.

    Attributes:
        labels: Of the contestants, in order; in the lines the first is side ``s0``, the next ``s1``.
        sets: Lines by held-out set.
        together: Whether all were measured in one process on one loaded base.
        notes: What is odd about comparing them.
    """

    labels: list[str]
    sets: dict[str, list[Line]]
    together: bool
    notes: list[str] = field(default_factory=list[str])


def stored(artifacts: Artifacts, contestants: Sequence[Contestant]) -> Compared:
    """What evaluations that were made say.

    Raises:
        SettingsError: They were not evaluated on the same rows; the hint says how to do it.
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
    """Measure all of them on this machine, on the held-out rows of the first that is a job.

    Raises:
        SettingsError: They have not all the same base, or the first has no held-out rows.
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
                environment=Secrets(settings.home).environment("HF_TOKEN"),
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


def figures(lines: Sequence[Line], one: str, other: str, *, confidence: float = 0.95) -> dict[str, dict[str, Any]]:
    """Each measure of two sides: their values, the difference of the second to the first, and its interval.

    ``better`` says which of the two is better beyond chance: ``one``, ``other`` or None.
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
    """The rows that the second answered better than the first, and worse; the largest change first.

    A row's score is exact match, then ROUGE-L, then the loss; rows without answers of both are left out.
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
    """Who answered in a contestant's own evaluation: the side by job, or by ``base``."""
    if host.job is None or not (host.job.evaluation or {}).get("uri"):
        return {}
    met: dict[str, Any] = (host.job.evaluation or {}).get("champion") or {}
    also = {str(met["job"]): SIDE} if met.get("compared") else {}
    return {**also, BASE: "base", host.key: "tuned"}


def _sets(artifacts: Artifacts, host: Contestant) -> dict[str, list[Line]]:
    uri = str(((host.job.evaluation if host.job else None) or {}).get("uri"))
    return {name: read(artifacts.read_bytes(f"{uri}/rows.{name}.jsonl")) for name in _set_names(host)}


def _set_names(host: Contestant) -> list[str]:
    return list(((host.job.metrics if host.job else None) or {}).get("sets") or {})


def _sided(lines: Sequence[Line], chosen: Sequence[str], start: int = 0) -> list[Line]:
    """Lines with the chosen sides alone, called ``s0``, ``s1`` and so on."""
    shared = ("row", "line", "prompt", "reference", "tokens")
    return [
        {
            **{name: line.get(name) for name in shared},
            **{f"{part}s{i}": line.get(f"{part}{side}") for i, side in enumerate(chosen, start) for part in PARTS},
        }
        for line in lines
    ]


def _aligned(artifacts: Artifacts, contestants: Sequence[Contestant]) -> Compared:
    """Each one's own evaluation, put side by side where the rows are the same."""
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
                    line |= {f"{part}s{i}": more[f"{part}s{i}"] for part in PARTS}
            sets[name] = merged
    if not sets:
        told = " and ".join(each.label for each in contestants)
        raise SettingsError(
            f"{told} were not evaluated on the same rows, so their numbers can't be compared.",
            hint="Add --run: all are measured now, here, on the held-out rows of the first.",
        )
    return Compared([each.label for each in contestants], sets, together=False, notes=_notes(artifacts, jobs, sets))


def _same_rows(lines: Sequence[Line], sets: dict[str, list[Line]]) -> list[Line] | None:
    wanted = identity(lines)
    return next((found for found in sets.values() if identity(found) == wanted), None)


def _notes(artifacts: Artifacts, jobs: Sequence[Contestant], sets: dict[str, list[Line]]) -> list[str]:
    """What differs between evaluations that were made apart; losses of other tokens are taken out."""
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
                line["tokens"] = None
    return notes


def _settings_of(artifacts: Artifacts, each: Contestant) -> dict[str, Any]:
    uri = str(((each.job.evaluation if each.job else None) or {}).get("uri"))
    found: dict[str, Any] = artifacts.read_json(f"{uri}/evaluation.json")
    return found.get("settings") or {}


def _require_one_base(host: Contestant, others: Sequence[Contestant]) -> None:
    bases = {(each.job.base or {}).get("revision"): each for each in (host, *others) if each.job is not None}
    if len(bases) > 1:
        told = ", ".join(f"{each.label} on {(each.job.base or {}).get('name')}" for each in bases.values() if each.job)
        raise SettingsError(
            f"they can't be measured in one process, which loads one base: {told}.",
            hint="Evaluate each with the same eval_dataset; celora compare then puts their rows side by side.",
        )


def _request(settings: Settings, host: Contestant, others: Sequence[Contestant], out: Path) -> EvaluateRequest:
    job = host.job
    if job is None or not (job.result or {}).get("adapter_uri"):
        raise SettingsError(f"{host.label} has no finished adapter.", hint=f"See `celora status {host.key}`.")
    spec, places = JobSpec.model_validate(job.spec), Places(settings, job.id, job.attempt)
    return EvaluateRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings),
        threads=settings.trainer_threads,
        base=Base.model_validate(job.base),
        prepared_dir=str(places.fetch(str(job.prepared_uri), "prepared")),
        adapter_dir=str(places.fetch(str((job.result or {})["adapter_uri"]), "adapter")),
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
    )
