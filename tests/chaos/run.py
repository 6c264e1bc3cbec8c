"""Measures the figures of survival: ``make chaos``, or ``ARGS="R1 R6"`` for some; ``CHAOS_SEED`` chooses the faults.

Each writes ``benchmarks/results/chaos/<name>.json``; R1 under the queue's rules has ``R1-queue.json``. A run whose seed
and code have a result there already is skipped (so that an interrupted ``make chaos`` goes on), unless ``--again`` is
given. The table comes last; the exit code is 1 when a goal was missed. A figure that cannot be measured is missed.
"""

import argparse
import fcntl
import hashlib
import importlib
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from chaos.figure import FIGURES, Bench  # noqa: E402  (found on the path of the line before)
from chaos.oracle import CHECKED  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "chaos"
SWITCHES = {"R1": ("CHAOS_QUEUE", "CHAOS_HOSTILE")}
"""Variables that change a figure's storm; a changed figure has a result file of its own."""
ROOMS = ("settings", "storage", "models", "scheduling", "workers", "services", "tasks", "tuning", "tests/chaos")


def main():
    """Run what was asked for, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("figures", nargs="*", help="names as R1; all unless given")
    parser.add_argument("--again", action="store_true", help="measure also what has a result")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored: nothing may be left behind
        signal.signal(number, signal.default_int_handler)
    for module in sorted((ROOT / "tests" / "chaos" / "figures").glob("*.py")):
        importlib.import_module(f"chaos.figures.{module.stem}")
    unknown = sorted(set(arguments.figures) - set(FIGURES))
    if unknown:
        parser.error(f"there is no figure {', '.join(unknown)}; there are {', '.join(in_order(FIGURES))}")
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    wanted = in_order(arguments.figures or FIGURES)  # R19 last: it reads the others' results
    print(f"CHAOS_SEED={seed}, figures {' '.join(wanted)}", file=sys.stderr)
    for name in wanted:
        for offset in range(FIGURES[name].seeds):
            measure(FIGURES[name], seed + offset, again=arguments.again)
    results = [read(name) for name in wanted]
    print(table(results))
    return 0 if all(result["passed"] for result in results) else 1


def in_order(names):
    """By number, and letters first."""
    return sorted(set(names), key=lambda name: (name[0], int(name[1:])))


def measure(figure, seed, *, again):
    """Run one figure with one seed and write its result down, unless it is there."""
    result = read(figure.name)
    code = code_hash()
    if not again and any(run["seed"] == seed and run["code"] == code for run in result["runs"]):
        print(f"{figure.name}, seed {seed}: measured already", file=sys.stderr)
        return
    with one_at_a_time():
        take(figure, seed, result, code)


def take(figure, seed, result, code):
    """Measure it now."""
    load = wait_for_quiet()
    print(f"{figure.name}, seed {seed}: {figure.claim}", file=sys.stderr)
    folder, began = Path(tempfile.mkdtemp(prefix=f"celora-{figure.name.lower()}-")), time.monotonic()
    folder.chmod(0o755)
    CHECKED.clear()
    try:
        numbers, missed = figure.measure(Bench(figure.name, seed, folder))
    except Exception as error:  # noqa: BLE001  (whatever it was, the figure is missed and the others go on)
        traceback.print_exc()
        numbers, missed = {}, [f"it could not be measured: {type(error).__name__}: {str(error).splitlines()[0]}"]
    finally:
        if os.environ.get("CHAOS_KEEP"):
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    switches = " ".join([*(f"{name}=1" for name in switched(figure.name)), f"CHAOS_SEED={seed}"])
    run = {
        "seed": seed,
        "passed": not missed,
        "missed": missed,
        "numbers": numbers,
        "histories": dict(CHECKED),
        "seconds": round(time.monotonic() - began, 1),
        "command": f'{switches} make chaos ARGS="{figure.name}"',
        "machine": machine(),
        "load_before": load,
        "code": code,
    }
    write(figure, [*(kept for kept in result["runs"] if kept["seed"] != seed), run])
    print(
        f"{figure.name}, seed {seed}: {'passed' if not missed else f'MISSED: {missed[:5]}'} {numbers}", file=sys.stderr
    )


@contextmanager
def one_at_a_time():
    """Two storms on one machine would measure each other."""
    with (Path(tempfile.gettempdir()) / "celora-chaos.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another `make chaos` on this machine", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wait_for_quiet():
    """Wait until nothing else keeps the machine busy, for faults come by the clock; returns the load that is left.

    ``CHAOS_BUSY=1`` measures at once.
    """
    most, told = (os.cpu_count() or 1) + 1, 0.0
    while (load := os.getloadavg()[0]) > most and not os.environ.get("CHAOS_BUSY"):
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"waiting for a quiet machine: load {load:.1f} on {os.cpu_count()} cores", file=sys.stderr)
        time.sleep(5)
    return round(load, 2)


def read(name):
    """A figure's result file, or an empty one."""
    path = result_file(name)
    return json.loads(path.read_text()) if path.exists() else {"figure": name, "passed": False, "runs": []}


def switched(name):
    """The variables that are set and change this figure."""
    return [switch for switch in SWITCHES.get(name, ()) if os.environ.get(switch)]


def result_file(name):
    """R1.json, or R1-queue.json where ``CHAOS_QUEUE`` changes the storm."""
    words = [switch.removeprefix("CHAOS_").lower() for switch in switched(name)]
    return RESULTS / f"{'-'.join([name, *words])}.json"


def write(figure, runs):
    """Replace a figure's result file."""
    runs = sorted(runs, key=lambda run: run["seed"])
    passed = all(run["passed"] for run in runs)
    content = {"figure": figure.name, "claim": figure.claim, "goal": figure.goal, "passed": passed, "runs": runs}
    RESULTS.mkdir(parents=True, exist_ok=True)
    result_file(figure.name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def code_hash():
    """One hash of all that a figure runs; the same on every commit that has the same code."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def machine():
    """The machine in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return (
        f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def table(results):
    """What was measured, a line a run."""
    lines = [f"{'figure':<7}{'seed':>5}  {'':<7}{'seconds':>8}  numbers"]
    for result in results:
        for run in result["runs"]:
            numbers = ", ".join(
                f"{key} {value}" for key, value in run["numbers"].items() if not isinstance(value, list)
            )
            verdict = "passed" if run["passed"] else "MISSED"
            lines.append(f"{result['figure']:<7}{run['seed']:>5}  {verdict:<7}{run['seconds']:>8.0f}  {numbers}")
            lines += [f"{'':<14}- {miss}" for miss in run["missed"][:10]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
