# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""Eight small jobs through submit and a real worker, against a process a job as a user of TRL writes it.

Two cases: SmolLM2-135M-Instruct (16 steps of 4 rows), and a Llama of 27 M random weights (20 steps of one row of 64
tokens). Each round submits eight jobs at once to an installation whose base is cached, and waits for the last one to
end; then eight processes, one after the other, load the same base, quantize it to NF4, train with ``SFTTrainer`` and
save. The jobs do what every job does: they are prepared, measured while they train, evaluated against their base and
verified; the scripts do nothing of this. Seconds of the clock: run it on an idle machine. Prints one JSON object;
``--write`` keeps it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "small_jobs.json"
JOBS = 8
SCRIPT = """
import json, sys
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

base, rows, out, steps, batch, seed = sys.argv[1:4] + [int(word) for word in sys.argv[4:]]
nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
model = AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4, dtype=torch.float32)
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(out, seed=seed, use_cpu=True, bf16=False, per_device_train_batch_size=batch, max_steps=steps,
                   save_strategy="no", report_to="none", disable_tqdm=True, activation_checkpointing=False),
    train_dataset=Dataset.from_list([json.loads(line) for line in open(rows)]),
    processing_class=AutoTokenizer.from_pretrained(base),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model(out)
"""


@dataclass(frozen=True)
class Case:
    """One base with its rows.

    Attributes:
        base: The base as a job names it.
        rows: The dataset file.
        steps: Optimizer steps of a job.
        batch: Rows of a step.
    """

    base: str
    rows: Path
    steps: int
    batch: int

    def spec(self, seed: int) -> dict[str, Any]:
        """The job, in which nothing but its length is chosen."""
        chosen = {"max_steps": self.steps, "effective_batch": self.batch, "seed": seed}
        return {"base_model": self.base, "dataset": str(self.rows), **chosen}


def main() -> None:
    """Measure interleaved rounds of both cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=["smollm2", "random"], default=["smollm2", "random"])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CELORA_HOME"] = f"{scratch}/home"
        from celora.workers.node.installation import Installation  # noqa: PLC0415  (reads CELORA_HOME at import)

        makers = {"smollm2": smollm2, "random": random_llama}
        with Installation(flower=False, api=False):
            cases = {name: makers[name](Path(scratch)) for name in arguments.cases}
            report = {name: measure(case, Path(scratch), arguments.rounds) for name, case in cases.items()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(json.dumps(report := {"machine": machine, "jobs": JOBS, "cases": report}, indent=1))
    if arguments.write:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def smollm2(scratch: Path) -> Case:
    """The real model, with questions of a few words."""
    lines = [{"prompt": f"say {number}", "completion": f"{number}!"} for number in range(64)]
    return Case("smollm2-135m-instruct", written(scratch / "says.jsonl", lines), steps=16, batch=4)


def random_llama(scratch: Path) -> Case:
    """27 M random weights, with rows of 64 tokens."""
    from references import random_base  # noqa: PLC0415  (beside this script; it imports torch)

    base = random_base(scratch / "random-27m", vocabulary=2048, hidden=512, layers=8)
    lines = [{"prompt": words(32, number), "completion": words(31, 7 * number)} for number in range(64)]
    return Case(str(base), written(scratch / "words.jsonl", lines), steps=20, batch=1)


def words(count: int, start: int) -> str:
    """Numbered words of the random base's tokenizer."""
    return " ".join(f"w{3 + (start * 31 + number * 17) % 2000}" for number in range(count))


def written(path: Path, lines: list[dict[str, str]]) -> Path:
    """Write the rows; return their file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def measure(case: Case, scratch: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each round, after one job that converts and quantizes the base."""
    through_celora(case, [1000])
    folders = [Path(case.base), *(file.parent for file in (scratch / "home").glob("cache/converted/*/config.json"))]
    source = next(str(folder) for folder in folders if folder.is_dir())
    celora, scripts = [], []
    for number in range(rounds):
        celora.append(through_celora(case, range(number * JOBS, number * JOBS + JOBS)))
        scripts.append(as_scripts(case, source, scratch))
        print(f"round {number + 1}: {celora[-1]:.1f} s, scripts {scripts[-1]:.1f} s", file=sys.stderr, flush=True)
    ratios = [theirs / ours for ours, theirs in zip(celora, scripts, strict=True)]
    return {
        "steps": case.steps,
        "rows_per_step": case.batch,
        "celora_s": [round(each, 1) for each in celora],
        "scripts_s": [round(each, 1) for each in scripts],
        "times_faster": {"median": round(statistics.median(ratios), 2), "from": round(min(ratios), 2)},
    }


def through_celora(case: Case, seeds: Any) -> float:
    """Submit a job for each seed at once; return the seconds until the last one ended."""
    from celora.tasks import finetune  # noqa: PLC0415  (reads CELORA_HOME at import)

    began = time.perf_counter()
    results = [finetune.apply_async(kwargs=case.spec(seed)) for seed in seeds]
    for result in results:
        result.get(timeout=1800)
    return time.perf_counter() - began


def as_scripts(case: Case, source: str, scratch: Path) -> float:
    """Run a process a job, one after the other; return their seconds."""
    began = time.perf_counter()
    for seed in range(JOBS):
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            words = [source, str(case.rows), out, str(case.steps), str(case.batch), str(seed)]
            done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]  # noqa: S101
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
