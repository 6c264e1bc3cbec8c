# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""A trainer's start: with the garbage collector, without it, forked from a process with all libraries, in a warm host.

Each kind trains the real SmolLM2-135M-Instruct (NF4) on the same prepared rows, in turns, each in a process of its own.
Seconds until it has started, and until its first step is done: of the CPU, read from the kernel when the event arrives,
and of the clock. The starts of the fork server and of the host are the first round, which is not counted. Prints one
JSON object; ``--write`` keeps it.
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

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from trainer_host import hosting

RESULTS = Path(__file__).parent / "results" / "trainer_start.json"
COLLECTING = (
    "-c",
    """
import gc, runpy
gc.disable = gc.freeze = lambda: None
runpy.run_module("celora.tuning.trainer", run_name="__main__", alter_sys=True)
""",
)
"""The trainer program as it was before: its collector cannot be switched off."""


def main() -> None:
    """Measure interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        with hosting(Path(scratch) / "run") as host:
            rounds = [
                {
                    "collecting": bench.start(COLLECTING),
                    "paused": bench.start(),
                    "forked": bench.start(warm=True),
                    "hosted": bench.start_in(host),
                }
                for _ in range(arguments.rounds + 1)
            ]
    report = summary(rounds[1:])  # the first one also writes the quantized copy
    print(json.dumps(report, indent=1))
    if arguments.write:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


class Bench:
    """Prepared rows and a base in a scratch folder.

    Args:
        scratch: The folder.
    """

    def __init__(self, scratch: Path) -> None:
        os.environ["CELORA_HOME"] = str(scratch)
        self.scratch = scratch
        rows = scratch / "rows.jsonl"
        rows.write_text("".join(json.dumps({"prompt": f"say {n}", "completion": f"{n}!"}) + "\n" for n in range(64)))
        from celora.tuning.protocol import PrepareRequest  # noqa: PLC0415  (after CELORA_HOME)
        from celora.tuning.recipe import Recipe  # noqa: PLC0415
        from celora.workers.trainer.supervisor import run_once  # noqa: PLC0415

        self.recipe = Recipe(max_steps=2, effective_batch=4)
        request = PrepareRequest(
            job="bench",
            attempt=1,
            cache_dir=str(scratch / "cache"),
            base_model="smollm2-135m-instruct",
            dataset=str(rows),
            recipe=self.recipe,
            seed=0,
            out_dir=str(scratch / "prepared"),
        )
        self.prepared = run_once(request, lambda _: None, log=scratch / "prepare.log", environment={})

    def start(self, program: tuple[str, ...] | None = None, *, warm: bool = False) -> dict[str, float]:
        """Seconds of a trainer when it has started, and when its first step is done."""
        from celora.workers.trainer import forked, process, supervisor  # noqa: PLC0415

        out = Path(tempfile.mkdtemp(dir=self.scratch))
        request = self.request(out)
        usual, process.PROGRAM = process.PROGRAM, program or process.PROGRAM
        began = time.perf_counter()
        try:
            trainer = process.TrainerProcess(request, out / "log", warm=forked.WarmStart(600) if warm else None)
        finally:
            process.PROGRAM = usual
        marks: dict[str, float] = {}
        while (events := trainer.events(supervisor.POLL_S)) is not None:
            for event in events:
                mark(marks, event, began, cpu_s(trainer.pid))
        assert trainer.close() == 0, (out / "log").read_text()  # noqa: S101
        return marks

    def start_in(self, host: Any) -> dict[str, float]:
        """The same of a run in a resident host, which has carried a run before."""
        out = Path(tempfile.mkdtemp(dir=self.scratch))
        pid = host.state().pid
        began, spent = time.perf_counter(), cpu_s(pid)
        run = host.run(self.request(out), log=out / "log")
        marks: dict[str, float] = {}
        for event in run.events():
            mark(marks, event, began, cpu_s(pid) - spent)
        assert run.end() == 0, (out / "log").read_text()  # noqa: S101
        return marks

    def request(self, out: Path) -> Any:
        """The request of a run that writes to a folder."""
        from celora.tuning.protocol import HubAccess, TrainRequest  # noqa: PLC0415

        return TrainRequest(
            job="bench",
            attempt=1,
            cache_dir=str(self.scratch / "cache"),
            hub=HubAccess(offline=True),
            threads=1,
            base=self.prepared["base"],
            prepared_dir=str(self.scratch / "prepared"),
            recipe=self.recipe,
            seed=0,
            out_dir=str(out),
        )


def mark(marks: dict[str, float], event: dict[str, Any], began: float, spent_cpu_s: float) -> None:
    """Note the time of the first event of a kind."""
    name = {"started": "started", "progress": "first_step"}.get(event["event"])
    if name and f"{name}_s" not in marks:
        marks[f"{name}_s"] = time.perf_counter() - began
        marks[f"{name}_cpu_s"] = spent_cpu_s


def cpu_s(pid: int) -> float:
    """User and system seconds of a process, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians of each kind, and the median of the rounds' ratios."""
    names = list(rounds[0]["paused"])
    medians = {kind: {name: statistics.median(r[kind][name] for r in rounds) for name in names} for kind in rounds[0]}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{sys.version.split()[0]}",
        "medians": {kind: {name: round(value, 2) for name, value in each.items()} for kind, each in medians.items()},
        "paused_to_collecting": ratios(rounds, "paused", "collecting"),
        "forked_to_paused": ratios(rounds, "forked", "paused"),
        "hosted_to_paused": ratios(rounds, "hosted", "paused"),
    }


def ratios(rounds: list[dict[str, dict[str, float]]], kind: str, reference: str) -> dict[str, dict[str, float]]:
    """Median and range of the rounds' ratios, by figure."""
    found = {name: [one[kind][name] / one[reference][name] for one in rounds] for name in rounds[0][kind]}
    return {
        name: {"median": round(statistics.median(each), 3), "from": round(min(each), 3), "to": round(max(each), 3)}
        for name, each in found.items()
    }


if __name__ == "__main__":
    main()
