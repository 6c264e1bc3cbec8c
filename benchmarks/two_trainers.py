# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""Two trainers of two threads each at the same time, against the same two one after the other.

Threads of OpenMP that wait for each other by spinning take the cores from the other trainer; a trainer's threads wait
passively (``OMP_WAIT_POLICY``, workers/trainer/environment.py). Each trainer trains SmolLM2-135M-Instruct in NF4 for
some steps on the same prepared rows, start and imports included. Seconds of the clock, rounds interleaved: run it on an
idle machine. Prints one JSON object; ``--write`` keeps it.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trainer_start import Bench

RESULTS = Path(__file__).parent / "results" / "two_trainers.json"
THREADS = 2


def main() -> None:
    """Measure interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pair = Pair(Bench(Path(scratch)), arguments.steps)
        pair.apart(1)  # writes the quantized copy
        rounds = [{"apart_s": pair.apart(2), "together_s": pair.together()} for _ in range(arguments.rounds)]
    ratios = [one["together_s"] / one["apart_s"] for one in rounds]
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{sys.version.split()[0]}",
        "threads": THREADS,
        "steps": arguments.steps,
        "rounds": [{name: round(value, 1) for name, value in one.items()} for one in rounds],
        "together_to_apart": {"median": round(statistics.median(ratios), 2), "to": round(max(ratios), 2)},
    }
    print(json.dumps(report, indent=1))
    if arguments.write:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


class Pair:
    """Runs trainers of one request.

    Args:
        bench: The prepared rows and the base.
        steps: Optimizer steps of a trainer.
    """

    def __init__(self, bench: Bench, steps: int) -> None:
        self._bench, self._steps = bench, steps

    def apart(self, count: int) -> float:
        """Run trainers one after the other; return their seconds."""
        began = time.perf_counter()
        for _ in range(count):
            finished(self._start())
        return time.perf_counter() - began

    def together(self) -> float:
        """Run two trainers at the same time; return the seconds until both have ended."""
        began = time.perf_counter()
        trainers = [self._start() for _ in range(2)]
        for trainer in trainers:
            finished(trainer)
        return time.perf_counter() - began

    def _start(self) -> tuple[Any, Path]:
        from celora.tuning.protocol import HubAccess, TrainRequest  # noqa: PLC0415  (after CELORA_HOME)
        from celora.workers.trainer import process  # noqa: PLC0415  (the same)

        out = Path(tempfile.mkdtemp(dir=self._bench.scratch))
        request = TrainRequest(
            job="bench",
            attempt=1,
            cache_dir=str(self._bench.scratch / "cache"),
            hub=HubAccess(offline=True),
            threads=THREADS,
            base=self._bench.prepared["base"],
            prepared_dir=str(self._bench.scratch / "prepared"),
            recipe=self._bench.recipe.model_copy(update={"max_steps": self._steps, "eval_steps": 1000}),
            seed=0,
            out_dir=str(out),
        )
        return process.TrainerProcess(request, out / "log"), out


def finished(started: tuple[Any, Path]) -> None:
    """Wait for a trainer's end; it must have ended well."""
    trainer, out = started
    while trainer.events(0.2) is not None:
        pass
    assert trainer.close() == 0, (out / "log").read_text()  # noqa: S101


if __name__ == "__main__":
    main()
