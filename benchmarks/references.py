# pyright: basic
# (torch, transformers and TRL ship incomplete types)
"""Our training against two independent references: a plain TRL script, and a bare PyTorch + PEFT loop without TRL.

Same base, seed, rows, order and settings for all three (fp32, no quantization, no dropout): the loss curves and the
final adapters are compared, and the throughput is measured in interleaved rounds of one process. Random weights and
random rows: this is about arithmetic and speed, not about learning.

    python benchmarks/references.py                        a small model, prints one JSON report
    python benchmarks/references.py --model FOLDER         another base
    python benchmarks/references.py --write                and writes benchmarks/results/references.json
"""

import argparse
import json
import logging
import math
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results" / "references.json"
PEAK, SEED, MICRO_BATCH, ACCUMULATION, RANK = 1e-3, 7, 4, 2, 16
SKIPPED = 2
"""Steps at the start of a run that do not count for the throughput."""


@dataclass
class Curve:
    """What one run gave."""

    losses: list[float] = field(default_factory=list)
    ends: list[tuple[float, float]] = field(default_factory=list)
    adapter: dict[str, torch.Tensor] = field(default_factory=dict)

    def step(self, loss: float) -> None:
        """One optimizer step is done."""
        self.losses.append(loss)
        self.ends.append((time.perf_counter(), time.process_time()))

    def median_s(self, clock: int) -> float:
        """Seconds of a step: wall (0) or CPU (1)."""
        ends = [end[clock] for end in self.ends[SKIPPED:]]
        return statistics.median(after - before for before, after in pairwise(ends))


@dataclass
class Bench:
    """One base with its prepared rows."""

    base: Any
    prepared: Path
    scratch: Path
    steps: int

    def rows_in_order(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows as our engine visits them in its first epoch."""
        from celora.tuning.batches.prepared_set import PreparedSet  # noqa: PLC0415
        from celora.tuning.batches.sampler import Batches  # noqa: PLC0415  (after the threads are set)

        rows = PreparedSet.load(self.prepared, "train")
        batches = Batches(rows, seed=SEED, micro_batch=MICRO_BATCH, accumulation=ACCUMULATION, pad_id=0)
        steps = range(batches.steps_per_epoch)
        return [rows[i] for step in steps for batch in batches.window(step) for i in batch]

    def model(self) -> Any:
        """The base, loaded anew."""
        from transformers import AutoModelForCausalLM  # noqa: PLC0415

        return AutoModelForCausalLM.from_pretrained(self.base.source, dtype=torch.float32)


def lora_config() -> Any:
    """The same adapter for all three."""
    from peft import LoraConfig  # noqa: PLC0415

    targets = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    return LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")


def warmup_steps(steps: int) -> int:
    """3 %, rounded down, as in the recipe's default."""
    return int(steps * 0.03)


def ours(bench: Bench) -> Curve:
    """celora.tuning.training.run.train, as a job runs it."""
    from safetensors.torch import load_file  # noqa: PLC0415

    from celora.tuning.protocol import HubAccess, TrainRequest  # noqa: PLC0415
    from celora.tuning.recipe import Recipe, ResolvedRecipe  # noqa: PLC0415
    from celora.tuning.training.run import train  # noqa: PLC0415

    recipe = Recipe(
        rank=RANK, alpha=2 * RANK, dropout=0, quantization="none", epochs=1, learning_rate=PEAK, eval_steps=10**6
    )
    resolved = ResolvedRecipe(
        **{
            **recipe.model_dump(),
            "micro_batch": MICRO_BATCH,
            "accumulation": ACCUMULATION,
            "effective_batch": MICRO_BATCH * ACCUMULATION,
            "max_length": 512,
            "gradient_checkpointing": False,
            "optimizer": "adamw",
            "compute_dtype": "float32",
        }
    )
    curve = Curve()

    def emit(event: str, **fields: Any) -> None:
        if event == "progress":
            curve.step(fields["loss"])

    out = Path(tempfile.mkdtemp(dir=bench.scratch))
    request = TrainRequest(
        job="benchmark",
        attempt=1,
        cache_dir=str(bench.scratch / "cache"),
        hub=HubAccess(offline=True),
        base=bench.base,
        prepared_dir=str(bench.prepared),
        recipe=recipe,
        resolved=resolved,
        seed=SEED,
        out_dir=str(out),
    )
    result = train(request, emit, threading.Event())
    if result is None:
        raise RuntimeError("the run was drained, though nobody asked")
    curve.adapter = load_file(Path(result.adapter_dir) / "adapter_model.safetensors")
    return curve


def plain_trl(bench: Bench) -> Curve:
    """What a user of TRL writes: a dataset of tokens and labels, SFTConfig, SFTTrainer, train()."""
    from datasets import Dataset  # noqa: PLC0415
    from peft import get_peft_model_state_dict  # noqa: PLC0415
    from transformers import AutoTokenizer, TrainerCallback  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    curve = Curve()

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            del args, state, control
            if logs and "loss" in logs:
                curve.step(logs["loss"])

    rows = [
        {"input_ids": tokens.tolist(), "labels": np.where(mask != 0, tokens, -100).tolist()}
        for tokens, mask in bench.rows_in_order()
    ]
    trainer = SFTTrainer(
        model=bench.model(),
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(dir=bench.scratch),
            seed=SEED,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            num_train_epochs=1,
            learning_rate=PEAK,
            lr_scheduler_type="cosine",
            warmup_steps=warmup_steps(bench.steps),
            max_grad_norm=1.0,
            activation_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(bench.prepared / "tokenizer"),
        peft_config=lora_config(),
        callbacks=[Watch()],
    )
    trainer.train()
    curve.adapter = get_peft_model_state_dict(trainer.model, save_embedding_layers=False)
    return curve


def bare_loop(bench: Bench) -> Curve:
    """PyTorch and PEFT alone; the schedule and the loss are written out."""
    from peft import get_peft_model, get_peft_model_state_dict  # noqa: PLC0415

    curve = Curve()
    torch.manual_seed(SEED)
    model: Any = get_peft_model(bench.model(), lora_config())
    model.train()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=PEAK, weight_decay=0.0)
    warmup, rows = warmup_steps(bench.steps), bench.rows_in_order()

    def rate(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (bench.steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    window = MICRO_BATCH * ACCUMULATION
    for start in range(0, len(rows), window):
        group = rows[start : start + window]
        trained, total = sum(int(mask[1:].sum()) for _, mask in group), 0.0
        for first in range(0, len(group), MICRO_BATCH):
            micro = group[first : first + MICRO_BATCH]
            width = max(len(tokens) for tokens, _ in micro)
            ids = torch.zeros(len(micro), width, dtype=torch.long)
            labels, attention = torch.full_like(ids, -100), torch.zeros_like(ids)
            for i, (tokens, mask) in enumerate(micro):
                ids[i, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
                labels[i, : len(tokens)] = torch.from_numpy(np.where(mask != 0, tokens, -100).astype(np.int64))
                attention[i, : len(tokens)] = 1
            logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            (loss / trained).backward()
            total += loss.item() / trained
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        curve.step(total)
    curve.adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
    return curve


RUNS = {"celora": ours, "trl": plain_trl, "bare": bare_loop}


def differences(one: Curve, other: Curve) -> dict[str, float]:
    """Largest distance of two loss curves and of two adapters."""
    if one.adapter.keys() != other.adapter.keys() or len(one.losses) != len(other.losses):
        raise RuntimeError("the runs did not train the same layers for the same steps")
    weights = [(one.adapter[name].detach(), other.adapter[name].detach()) for name in one.adapter]
    return {
        "loss_max_abs": max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True)),
        "weight_max_abs": max((a - b).abs().max().item() for a, b in weights),
        "weight_relative_norm": math.sqrt(
            sum((a - b).double().pow(2).sum().item() for a, b in weights)
            / sum(b.double().pow(2).sum().item() for _, b in weights)
        ),
    }


def compare(bench: Bench, rounds: int) -> dict[str, Any]:
    """All three, ``rounds`` times in turn; curves of the first round, speeds of all."""
    tokens = sum(len(row) for row, _ in bench.rows_in_order()) / bench.steps
    curves: dict[str, list[Curve]] = {name: [] for name in RUNS}
    names = list(RUNS)
    for number in range(rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            curves[name].append(RUNS[name](bench))
    wall, cpu = ({name: [curve.median_s(clock) for curve in curves[name]] for name in names} for clock in (0, 1))
    first = {name: runs[0] for name, runs in curves.items()}
    return {
        "steps": bench.steps,
        "tokens_per_step": round(tokens, 1),
        "rounds": rounds,
        "loss_first": first["celora"].losses[0],
        "loss_last": first["celora"].losses[-1],
        "celora_against_trl": differences(first["celora"], first["trl"]),
        "celora_against_bare": differences(first["celora"], first["bare"]),
        "tokens_per_s": {name: round(tokens / statistics.median(wall[name]), 1) for name in names},
        "tokens_per_cpu_s": {name: round(tokens / statistics.median(cpu[name]), 1) for name in names},
        "speed_against_trl": paired(wall["trl"], wall["celora"]),
        "speed_against_bare": paired(wall["bare"], wall["celora"]),
        "cpu_speed_against_trl": paired(cpu["trl"], cpu["celora"]),
        "cpu_speed_against_bare": paired(cpu["bare"], cpu["celora"]),
    }


def paired(theirs: list[float], our: list[float]) -> dict[str, float]:
    """Our speed over theirs, round by round."""
    ratios = [a / b for a, b in zip(theirs, our, strict=True)]
    return {name: round(f(ratios), 3) for name, f in (("median", statistics.median), ("min", min), ("max", max))}


def random_base(folder: Path, vocabulary: int, hidden: int, layers: int) -> Path:
    """A Llama with random weights and a tokenizer of numbered words."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, vocabulary)}}
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def prepare_bench(source: Path, scratch: Path, *, steps: int, row_tokens: int) -> Bench:
    """Random rows of 0.5 to 1.5 times ``row_tokens``, the second half of each trained, in the prepared layout."""
    from celora.tuning.bases.base import load_tokenizer, resolve  # noqa: PLC0415
    from celora.tuning.batches.prepared_set import SetWriter, save_result  # noqa: PLC0415
    from celora.tuning.protocol import HubAccess, PrepareResult  # noqa: PLC0415
    from celora.tuning.templates.loss_masks import Encoded  # noqa: PLC0415

    base = resolve(str(source), None, scratch / "cache", HubAccess(offline=True), lambda *_, **__: None)
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    rng = np.random.default_rng(SEED)
    rows = []
    for _ in range(steps * MICRO_BATCH * ACCUMULATION):
        length = int(rng.integers(row_tokens // 2, row_tokens * 3 // 2))
        mask = (np.arange(length) >= length // 2).astype(np.uint8)
        rows.append(Encoded(rng.integers(3, vocabulary, length).astype(np.int32), mask))
    prepared = scratch / "prepared"
    prepared.mkdir()
    lengths = np.array([len(row.tokens) for row in rows], dtype=np.int64)
    with SetWriter(prepared, "train") as writer:
        writer.write(np.concatenate([row.tokens for row in rows]), np.concatenate([row.mask for row in rows]), lengths)
    load_tokenizer(source).save_pretrained(prepared / "tokenizer")
    result = PrepareResult(
        base=base,
        dataset_sha256="0" * 64,
        train_rows=len(rows),
        eval_rows={},
        train_tokens=sum(len(row.tokens) for row in rows),
        trained_tokens=sum(int(row.mask.sum()) for row in rows),
        max_length=512,
        template="own",
        memory_bytes=0,
        receipt={},
    )
    save_result(prepared, result, {})
    return Bench(base, prepared, scratch, steps)


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """The comparison for each vocabulary (or for the given base)."""
    from celora.tuning.device import versions  # noqa: PLC0415

    cases: dict[str, Any] = {}
    vocabularies = [None] if arguments.model else arguments.vocabulary
    for vocabulary in vocabularies:
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            if vocabulary is None:
                source, name = Path(arguments.model), Path(arguments.model).name
            else:
                name = f"random Llama, hidden {arguments.hidden} x {arguments.layers}, vocabulary {vocabulary}"
                source = random_base(scratch / "base", vocabulary, arguments.hidden, arguments.layers)
            bench = prepare_bench(source, scratch, steps=arguments.steps, row_tokens=arguments.row_tokens)
            cases[name] = compare(bench, arguments.rounds)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": arguments.threads}
    return {"machine": machine, "versions": versions("cpu"), "cases": cases}


def main() -> None:
    """Measure, print, and write when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a base; a random Llama unless given")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32768])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--row-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(RESULTS.parents[2])}")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)
    text = json.dumps(report(arguments), indent=1)
    print(text)
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text + "\n", encoding="utf-8")
        print(f"written to {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
