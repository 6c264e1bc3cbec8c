# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""Everything that only a GPU can show, in at most eight minutes: ``make gpu``.

Runs the cells of ``cells.py`` one after the other, each in a process of its own, so that a device error in one does not
reach the next. The report is written after every cell: what was measured stays, whatever happens later. A cell that
fails is in the report with its error, and the exit code is 1. The base models are random weights that the cells make;
the doctor's trial uses a catalogue base where one is installed. ``--device cpu`` runs the same cells with small shapes
on a machine without a GPU, which shows that the cells work and nothing about CUDA.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
CELLS = {"packing": 60, "resident": 150, "resume": 120, "estimate": 120, "doctor": 180}
"""The cells with the most seconds each may take, the cheapest first."""
PACKAGES = ("celora", "torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")


def main() -> int:
    """Run the cells within the time; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("cells", nargs="*", metavar="cell", help=f"of {', '.join(CELLS)}; all unless given")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--within-s", type=float, default=480, help="of all cells together")
    parser.add_argument("--out", type=Path, help="the report; benchmarks/results/gpu.json or gpu_cpu.json unless given")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.cells) - set(CELLS)):
        parser.error(f"there is no cell {', '.join(unknown)}; there are {', '.join(CELLS)}")
    out = arguments.out or RESULTS / {"cuda": "gpu.json", "cpu": "gpu_cpu.json"}[arguments.device]
    deadline = time.monotonic() + arguments.within_s
    report: dict[str, Any] = {"machine": machine(arguments.device), "cells": {}}
    for name in arguments.cells or CELLS:
        left_s = min(CELLS[name], deadline - time.monotonic())
        report["cells"][name] = run(name, arguments.device, left_s) if left_s > 1 else {"error": "no time was left"}
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        cell = report["cells"][name]
        print(f"{name}: {'FAILED: ' + cell['error'] if 'error' in cell else json.dumps(cell)}", flush=True)
    print(f"report: {out.name}")
    return int(any("error" in cell for cell in report["cells"].values()))


def machine(device: str) -> dict[str, Any]:
    """Describe the device and the versions of what runs on it."""
    facts: dict[str, Any] = {"device": f"{platform.machine()}, {os.cpu_count()} cores", "versions": {}}
    for package in PACKAGES:
        try:
            facts["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts["versions"][package] = None
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader", "--id=0"]
        facts["device"] = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    return facts


def run(name: str, device: str, within_s: float) -> dict[str, Any]:
    """Run a cell in a process of its own; return its figures, or its error, and its seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"celora-gpu-{name}-") as scratch:
        figures, log = Path(scratch, "figures.json"), Path(scratch, "log")
        environment = {**os.environ, "CELORA_HOME": f"{scratch}/home", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, str(HERE / "cells.py"), name, "--device", device, "--out", str(figures)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--scratch", scratch],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            code = process.wait(within_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        found: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}
        if code != 0 and "error" not in found:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it wrote nothing"]
            why = f"after {within_s:.0f} s" if code is None else f"exit code {code}"
            found["error"] = f"{why}: {last[0].replace(scratch, '…')[:500]}"
    return {**found, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(main())
