# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""An evaluation with every answer decoded, with shown answers taken over, and with the base's side kept: CPU seconds.

A small adapter of the real SmolLM2-135M-Instruct (NF4) is trained once on rows that it can learn. Then the same
evaluation is made in processes of its own: ``decoded`` (nothing is taken over), ``shown`` (answers that the loss pass
has shown are not decoded) and ``kept`` (the base's side is an earlier evaluation's, too). Metrics and answers must be
equal. Prints one JSON object; ``--write`` keeps it.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "evaluation.json"
DECODING = (
    "-c",
    """
import runpy
from celora.tuning.evaluation import confirmed
confirmed.MARGINS = dict.fromkeys(confirmed.MARGINS, 1e9)
runpy.run_module("celora.tuning.trainer", run_name="__main__", alter_sys=True)
""",
)
"""The trainer program with a margin that no answer has."""
SPEEDS = {"tokens_per_s"}


def main() -> None:
    """Train, evaluate in three ways, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), arguments.steps)
        runs = {
            "decoded": bench.evaluate("decoded", DECODING, fresh=True),
            "shown": bench.evaluate("shown", fresh=True),
            "kept": bench.evaluate("kept", fresh=False),
        }
        rows = {name: (Path(scratch) / name / "rows.eval.jsonl").read_text() for name in runs}
    usual = runs["decoded"]["cpu_s"]
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{sys.version.split()[0]}",
        "rows": len(rows["shown"].splitlines()),
        "cpu_s": {name: round(run["cpu_s"], 1) for name, run in runs.items()},
        "to_decoded": {name: round(run["cpu_s"] / usual, 3) for name, run in runs.items()},
        "metrics_equal": all(numbers(run) == numbers(runs["decoded"]) for run in runs.values()),
        "rows_equal": len(set(rows.values())) == 1,
        "exact_match": {side: runs["shown"]["metrics"][side]["exact_match"] for side in ("base", "tuned")},
    }
    print(json.dumps(report, indent=1))
    if arguments.write:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def numbers(run: dict[str, Any]) -> dict[str, Any]:
    """The metrics of both sides, speeds aside."""
    return {
        side: {name: value for name, value in run["metrics"][side].items() if name not in SPEEDS}
        for side in ("base", "tuned")
    }


class Bench:
    """A trained adapter with its prepared rows in a scratch folder.

    Args:
        scratch: The folder.
        steps: Steps of the training.
    """

    def __init__(self, scratch: Path, steps: int) -> None:
        os.environ["CELORA_HOME"] = str(scratch)
        self.scratch = scratch
        colours = ["red", "blue", "green", "grey"]
        rows = [{"prompt": f"Colour of item {n}?", "completion": f"It is {colours[n % 4]}."} for n in range(96)]
        (scratch / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        from celora.tuning.protocol import PrepareRequest, TrainRequest  # noqa: PLC0415  (after CELORA_HOME)
        from celora.tuning.recipe import Recipe  # noqa: PLC0415

        recipe = Recipe(max_steps=steps, effective_batch=4, learning_rate=2e-3)
        self.fields = {"job": "bench", "attempt": 1, "cache_dir": str(scratch / "cache"), "threads": 1, "seed": 0}
        prepared = self._run(
            PrepareRequest(
                **self.fields,
                base_model="smollm2-135m-instruct",
                dataset=str(scratch / "rows.jsonl"),
                eval_fraction=0.25,
                recipe=recipe,
                out_dir=str(scratch / "prepared"),
            )
        )
        self.fields |= {"base": prepared["base"], "prepared_dir": str(scratch / "prepared")}
        self.trained = self._run(TrainRequest(**self.fields, recipe=recipe, out_dir=str(scratch / "run")))

    def evaluate(self, name: str, program: tuple[str, ...] | None = None, *, fresh: bool) -> dict[str, Any]:
        """Evaluate the adapter; the result with the CPU seconds of its process."""
        from celora.tuning.protocol import EvaluateRequest  # noqa: PLC0415
        from celora.workers.trainer import process  # noqa: PLC0415

        if fresh:
            for entry in (self.scratch / "cache" / "base-results").glob("*"):
                entry.unlink()
        request = EvaluateRequest(
            **self.fields,
            adapter_dir=self.trained["adapter_dir"],
            recipe=self.trained["resolved"],
            metrics=["exact_match"],
            max_new_tokens=24,
            trainer_eval_loss=self.trained["eval_loss"],
            out_dir=str(self.scratch / name),
        )
        before, usual = resource.getrusage(resource.RUSAGE_CHILDREN), process.PROGRAM
        process.PROGRAM = program or usual
        try:
            result = self._run(request)
        finally:
            process.PROGRAM = usual
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return result | {"cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}

    def _run(self, request: Any) -> dict[str, Any]:
        from celora.workers.trainer.supervisor import run_once  # noqa: PLC0415

        return run_once(request, lambda _: None, log=self.scratch / "log", environment={})


if __name__ == "__main__":
    main()
