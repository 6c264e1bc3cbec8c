# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""Many jobs through one resident trainer host: whether memory, live tensors, base and results stay as they are.

Every job trains the real SmolLM2-135M-Instruct (NF4) for two steps, with the rank and the dropout of its turn; the last
round repeats the first to the bit. Memory is the resident set after a job; the first jobs are a warm-up, since the
allocators of C and of torch keep what they use. Prints one JSON object; ``--write`` keeps it.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parent)]
from trainer_host import hosting  # noqa: E402  (a part of the tests)
from trainer_start import Bench  # noqa: E402  (a neighbour)

RESULTS = Path(__file__).parent / "results" / "host_jobs.json"
WARM_UP = 10
TURNS = [{"rank": 8}, {"rank": 16, "dropout": 0.1}, {"rank": 4, "target_modules": ["q_proj"]}]


def main() -> None:
    """Run the jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        with hosting(Path(scratch) / "run") as host:
            jobs = [carry(bench, host, number) for number in range(arguments.jobs)]
    report = summary(jobs)
    print(json.dumps(report, indent=1))
    if arguments.write:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def carry(bench: Bench, host: Any, number: int) -> dict[str, Any]:
    """Run a job; return the state of the host after it and the digest of its adapter."""
    out = Path(tempfile.mkdtemp(dir=bench.scratch))
    plain = bench.request(out)
    recipe = plain.recipe.model_copy(update=TURNS[number % len(TURNS)])
    run = host.run(plain.model_copy(update={"recipe": recipe}), log=out / "log")
    assert run.end() == 0, (out / "log").read_text()  # noqa: S101
    state = host.state()
    weights = (out / "adapter" / "adapter_model.safetensors").read_bytes()
    return {
        "generation": state.generation,
        "memory_bytes": state.memory_bytes,
        "tensors": state.tensors,
        "loads": state.resident.loaded_at,
        "adapter": hashlib.sha256(weights).hexdigest(),
    }


def summary(jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the last jobs with those after the warm-up; the host itself has checked the base after each job."""
    warm = jobs[WARM_UP:] if len(jobs) > 2 * WARM_UP else jobs
    third = max(1, len(warm) // 3)
    first, last = (statistics.median(job["memory_bytes"] for job in part) for part in (warm[:third], warm[-third:]))
    distinct = [{job["adapter"] for job in jobs[turn :: len(TURNS)]} for turn in range(len(TURNS))]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{sys.version.split()[0]}",
        "jobs": len(jobs),
        "hosts": len({job["generation"] for job in jobs}),
        "loads_of_the_base": len({job["loads"] for job in jobs}),
        "memory_last_to_first": round(last / first, 4),
        "memory_mib": round(last / 2**20),
        "live_tensors_more": warm[-1]["tensors"] - warm[0]["tensors"],
        "distinct_adapters_by_recipe": [len(each) for each in distinct],
    }


if __name__ == "__main__":
    main()
