"""Defines ``celora doctor``, which finds the faults of this machine or installation and names their fixes."""

import json
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BaseModelError, CeloraError, SettingsError
from ..settings import bases
from ..settings.gpus import GIB, gpu_catalogue
from ..settings.settings import get_settings
from .demo import DATA
from .node import until_interrupted
from .output import Json, print_json, progress_console, say, size

WIDTH = 5
STEPS = {"cpu": 12, "cuda": 120}
"""Optimizer steps of the trial where none are named: enough to be killed in the middle of them."""


def doctor(
    *,
    gpu: Annotated[bool, typer.Option("--gpu", help="Run a minute of the real thing on the GPU.")] = False,
    device: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|cpu", help="The same on this GPU, or on the CPU of a machine without one."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Base of that run; the smallest of the catalogue unless set.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=6, help="Optimizer steps of that run; 120 on a GPU, 12 on a CPU unless set.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="File for its report; one below CELORA_HOME/doctor unless set.")
    ] = None,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds that this run may take.")] = 900,
    free_gib: Annotated[float, typer.Option(min=0, help="Free GiB below which a disk counts as full.")] = 5,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Say which published adapters a mended fault may have touched.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out torch and bitsandbytes.")] = False,
    as_json: Json = False,
) -> None:
    """Look at this machine and its installation; say what is wrong and how to mend it. Exit code 1 if anything fails.

    With `--gpu` it loads and quantizes a base, trains, kills the trainer, resumes, evaluates, looks whether the memory
    was given back, and writes a report. Nothing of the installation changes.

    With `--adapters` it reads the record alone: which published adapters were trained while a fault was in celora that
    is mended now, and what to do about each.

    Example: `celora doctor`, `celora doctor --gpu`, `celora doctor --adapters`
    """
    if gpu or device is not None:
        passed = _trial(device, base_model, steps, report, limit_s=limit_s, as_json=as_json)
    else:
        passed = _examine(free_gib, quick=quick, adapters=adapters, as_json=as_json)
    raise typer.Exit(0 if passed else 1)


def _examine(free_gib: float, *, quick: bool, adapters: bool, as_json: bool) -> bool:
    from ..doctor import checks as examination  # noqa: PLC0415  (the other commands need not wait for its imports)
    from ..doctor.adapters import adapters as judged  # noqa: PLC0415  (the same)

    began = time.monotonic()
    findings = list(judged(get_settings())) if adapters else examination.examine(free_gib * GIB, quick=quick)
    failed = examination.fails(findings)
    if as_json:
        print_json(
            {
                "ok": not failed,
                "celora": metadata.version("celora"),
                "seconds": round(time.monotonic() - began, 2),
                "findings": [{"level": f.level, "check": f.check, "found": f.found, "fix": f.fix} for f in findings],
            }
        )
        return not failed
    longest = max(len(finding.check) for finding in findings)
    for finding in findings:
        say(f"{finding.level:<{WIDTH}} {finding.check:<{longest}}  {finding.found}")
        if finding.fix:
            say(f"{'':<{WIDTH}} {'':<{longest}}  -> {finding.fix}")
    levels = [str(finding.level) for finding in findings]
    say(f"{levels.count('ok')} ok, {levels.count('warn')} to look at, {levels.count('fail')} failed")
    return not failed


def _trial(
    where: str | None, base_model: str | None, steps: int | None, report: Path | None, *, limit_s: float, as_json: bool
) -> bool:
    from ..doctor.gpu_test import run  # noqa: PLC0415  (Celery takes a third of a second to import)

    found = _device(where)
    kind = "cuda" if found.uuid else "cpu"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = get_settings().home / "doctor"
    target = report or folder / f"{found.gpu_type}-{stamp}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    out = progress_console()
    with until_interrupted():
        made = run.run(
            folder / f"trial-{stamp}",
            found,
            base_model=base_model or smallest_base(),
            rows=DATA / "train.jsonl",
            held_out=DATA / "eval_wordings.jsonl",
            steps=steps or STEPS[kind],
            within_s=limit_s,
            told=lambda line: out.print(line, markup=False) if as_json else say(line),
        )
    target.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(made)
    else:
        for line in _told(made):
            say(line)
        say(f"report: {target}")
    return bool(made["passed"])


def smallest_base() -> str:
    """The smallest base of the catalogue that this machine has.

    Raises:
        BaseModelError: It has none; the hint says what to install.
    """
    sizes: dict[str, int] = {}
    missing: CeloraError | None = None
    for base in bases.CATALOGUE:
        try:
            sizes[base.name] = bases.locate(base).stat().st_size
        except BaseModelError as error:
            missing = missing or error
    if not sizes:
        hint = missing.hint if missing else ""
        raise BaseModelError("this machine has no base of the catalogue.", hint=f"{hint}, or name one: --base-model")
    return min(sizes, key=lambda name: sizes[name])


def _device(where: str | None) -> Any:
    from ..workers.gpu import device  # noqa: PLC0415  (only here)

    if where not in (None, "cpu") and not str(where).isdigit():
        raise SettingsError(f"--device {where} is no GPU.", hint="Give its number, as `nvidia-smi -L` has it, or cpu.")
    found = device(int(where) if where not in (None, "cpu") else 0, gpu_catalogue(get_settings().gpus))
    if where != "cpu" and not found.uuid:
        raise SettingsError("this machine has no NVIDIA device.", hint="Try its CPU: celora doctor --gpu --device cpu")
    if where == "cpu" and found.uuid:
        raise SettingsError(
            f"this machine has a GPU ({found.name}), and jobs of such a machine never run on its CPU.",
            hint="Leave --device away.",
        )
    return found


def _told(made: dict[str, Any]) -> list[str]:
    """Format the figures of a report, a line each."""
    device, driver = made["device"], made["driver"]
    told = f"driver {driver['version']} (CUDA {driver['cuda']})" if driver else "no NVIDIA driver"
    lines = [
        f"device  {device['name']} ({device['type']}), {size(device['memory_bytes'])}, {told}",
        f"base    {made['base_model']}, computes in {made.get('compute_dtype', '-')}",
    ]
    if made.get("tokens_per_s"):
        peak = size(made.get("peak_memory_bytes"))
        lines.append(f"speed   {made['tokens_per_s']:g} tokens/s, peak memory of the trainer {peak}")
    if made["tried_in"]:
        lines.append(f"logs    {made['tried_in']}")
    passed = sum(stage["ok"] for stage in made["stages"])
    lines.append(f"{'passed' if made['passed'] else 'FAILED'} ({passed} stages) in {made['seconds']:g} s")
    return lines
