# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""The cells of ``make gpu``; ``run.py`` starts each in a process of its own.

packing: rows that share a line do not see each other, with each attention kernel that the engine may use.
resident: a Llama of the 8B shape with random NF4 weights stays on the device; attaching an adapter, and tokens a second
of training steps, against the limit that follows from the shape (``LIMITS``).
resume: a run that is killed after a checkpoint and goes on ends with the same adapter, to the bit, as one that is not;
with paged 8-bit AdamW where the device is a GPU.
estimate: device memory and seconds a step, against the receipt's.
doctor: ``celora doctor --gpu``.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

LLAMA_8B = {"hidden": 4096, "mlp": 14336, "layers": 32, "heads": 32, "kv_heads": 8, "vocabulary": 128256}
SMALL = {"hidden": 128, "mlp": 256, "layers": 2, "heads": 4, "kv_heads": 2, "vocabulary": 2048}
GFLOP_PER_TOKEN = 32.15
"""Of Llama-3.1-8B with rank 16 on all linear layers, 2,048 tokens a row: forward, backward to activations, LoRA and
attention (15.01 + 15.01 + 0.25 + 1.88); with recomputation 14.58 more, which is not done here."""
FLOPS_PER_S = {"H200": 790e12, "H100": 790e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""16-bit rates of matrix products by a part of the device's name: for Hopper as large products reach them, else by the
data sheet."""


def packing(device: str, scratch: Path) -> dict[str, Any]:
    """Check isolation for each attention kernel; the engine trains packed only where it holds."""
    del scratch
    from celora.tuning.batches.sampler import isolated  # noqa: PLC0415  (the other cells need not import it)

    found = {}
    for kernel in ("sdpa", "flash_attention_2", "eager"):
        try:
            model = llama(SMALL, device, attention=kernel)
        except ImportError:
            found[kernel] = "not installed"
            continue
        found[kernel] = isolated(model, SMALL["vocabulary"], device)
    if not found["sdpa"]:
        raise RuntimeError(f"rows that share a line see each other with the kernel that the engine uses: {found}")
    return {"isolated": found}


def llama(shape: dict[str, int], device: str, *, attention: str = "sdpa") -> Any:
    """A Llama of a shape with random weights, in 16 bits on a GPU and in 32 on a CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (seconds)

    config = LlamaConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=8192,
        attn_implementation=attention,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def resident(device: str, scratch: Path) -> dict[str, Any]:
    """Measure a base that stays: its bytes, attaching adapters, and training steps."""
    del scratch
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  (seconds)

    shape, rows, length = (LLAMA_8B, 4, 2048) if device == "cuda" else (SMALL, 2, 64)
    began = time.perf_counter()
    model = quantized(llama(shape, device), device)
    made_s = time.perf_counter() - began
    before = memory(device)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    attached = []
    for _ in range(10):
        began = time.perf_counter()
        tuned = get_peft_model(model, config)
        waited(device)
        attached.append(time.perf_counter() - began)
        tuned.unload()
    left = memory(device) - before
    tuned = get_peft_model(model, config)
    step_s = steps_s(tuned, device, shape, rows, length)
    tokens_per_s = rows * length / step_s
    found = {
        "shape": "Llama-3.1-8B, random weights, NF4" if device == "cuda" else "small Llama, random weights, NF4",
        "make_and_quantize_s": round(made_s, 1),
        "base_bytes": before,
        "left_after_ten_adapters_bytes": left,
        "attach_s": {"median": round(statistics.median(attached), 4), "slowest": round(max(attached), 4)},
        "rows": rows,
        "tokens_per_row": length,
        "step_s": round(step_s, 4),
        "tokens_per_s": round(tokens_per_s, 1),
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    if peak := next((rate for part, rate in FLOPS_PER_S.items() if part in name), None):
        found["of_limit"] = round(tokens_per_s * GFLOP_PER_TOKEN * 1e9 / peak, 3)
    return found


def quantized(model: Any, device: str) -> Any:
    """Replace each linear layer but the head by an NF4 one, in place, one after the other."""
    from bitsandbytes.nn import Linear4bit, Params4bit  # noqa: PLC0415  (seconds)

    names = [
        name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and "lm_head" not in name
    ]
    for name in names:
        layer = model.get_submodule(name)
        small = Linear4bit(layer.in_features, layer.out_features, bias=False, compute_dtype=layer.weight.dtype)
        weight = layer.weight.detach()
        small.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
        model.set_submodule(name, small.to(device))
        del layer
    return model.requires_grad_(requires_grad=False)


def steps_s(tuned: Any, device: str, shape: dict[str, int], rows: int, length: int) -> float:
    """The median seconds of an optimizer step, after those that warm up."""
    tuned.train()
    weights = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=device == "cuda")
    seconds = []
    warm, timed = (10, 30) if device == "cuda" else (1, 3)
    for step in range(warm + timed):
        tokens = torch.randint(0, shape["vocabulary"], (rows, length), device=device)
        waited(device)
        began = time.perf_counter()
        loss = tuned(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        waited(device)
        if step >= warm:
            seconds.append(time.perf_counter() - began)
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss is {loss.item()}")
    return statistics.median(seconds)


def waited(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def memory(device: str) -> int:
    """Bytes that tensors hold on the GPU; 0 on a CPU, which does not count them."""
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def resume(device: str, scratch: Path) -> dict[str, Any]:
    """Train without a stop, then kill another run after its first checkpoint and let it go on; compare the adapters."""
    base, rows = small_base(scratch)
    recipe = {"accumulation": 1, "micro_batch": 4, "rank": 8, "max_steps": 12, "save_steps": 4, "eval_steps": 1000}
    if device == "cuda":
        recipe["optimizer"] = "paged_adamw_8bit"
    prepared = prepare(base, rows, scratch, recipe, device)
    whole = train(prepared, scratch / "whole", recipe, device)
    begun = train(prepared, scratch / "killed", recipe, device, kill_after="checkpoint")
    gone_on = train(prepared, scratch / "resumed", recipe, device, resume_from=begun["checkpoint"])
    if device == "cuda" and whole["resolved"]["optimizer"] != "paged_adamw_8bit":
        raise RuntimeError(f"the run used {whole['resolved']['optimizer']}")
    if whole["adapter"] != gone_on["adapter"]:
        raise RuntimeError(f"the adapters differ; the resumed run calls itself exact: {gone_on['exact']}")
    told = {name: whole["resolved"][name] for name in ("optimizer", "compute_dtype", "quantization")}
    return {**told, "killed_after_step": begun["step"], "equal_to_the_bit": True}


def estimate(device: str, scratch: Path) -> dict[str, Any]:
    """Compare the receipt's memory and step time with a run's, unquantized and in NF4."""
    base, rows = small_base(scratch, hidden=1024, layers=12) if device == "cuda" else small_base(scratch)
    found = {}
    for quantization in ("none", "nf4"):
        recipe = {
            "accumulation": 1, "micro_batch": 8, "rank": 16, "max_steps": 30, "eval_steps": 1000,
            "quantization": quantization,
        }  # fmt: skip
        prepared = prepare(base, rows, scratch / quantization, recipe, device)
        (told,) = prepared["receipt"]["estimate"]["devices"]
        run = train(prepared, scratch / quantization / "out", recipe, device)
        found[quantization] = {
            "memory_bytes": {"estimated": told["memory_bytes"]["total"], "measured": run["peak_memory_bytes"]},
            "step_s": {"estimated": round(told["train_s"] / 30, 4), "measured": round(run["step_s"], 4)},
        }
    return found


def small_base(scratch: Path, hidden: int = 128, layers: int = 2) -> tuple[Path, Path]:
    """A base of random weights with numbered words, and 400 rows of 64 of them."""
    from references import random_base  # noqa: PLC0415  (beside this folder)

    base = random_base(scratch / "base", vocabulary=4096, hidden=hidden, layers=layers)
    rows = scratch / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for row in range(400):
            words = [f"w{3 + (row * 131 + number * 17) % 4000}" for number in range(64)]
            file.write(json.dumps({"prompt": " ".join(words[:32]), "completion": " ".join(words[32:])}) + "\n")
    return base, rows


def prepare(base: Path, rows: Path, scratch: Path, recipe: dict[str, Any], device: str) -> dict[str, Any]:
    """Prepare the rows as a job does; return the result with its folder."""
    from celora.tuning.protocol import PrepareRequest  # noqa: PLC0415  (the other cells need not import it)
    from celora.tuning.recipe import Recipe  # noqa: PLC0415  (the same)

    out = scratch / "prepared"
    request = PrepareRequest(
        job="gpu", attempt=1, cache_dir=str(scratch / "cache"), base_model=str(base), dataset=str(rows),
        recipe=Recipe(**recipe), seed=1, out_dir=str(out), eval_fraction=0,
        devices=[device_type(device)],
    )  # fmt: skip
    return {**carried_out(request, scratch)[-1]["result"], "folder": str(out), "cache": str(scratch / "cache")}


def device_type(device: str) -> Any:
    """Describe this machine's device as the catalogue has it, for the receipt's estimate."""
    from celora.settings.gpus import gpu_catalogue  # noqa: PLC0415  (the other cells need not import it)
    from celora.tuning.protocol import DeviceType  # noqa: PLC0415  (the same)
    from celora.workers.gpu import device as device_at  # noqa: PLC0415  (the same)

    if device == "cpu":
        return DeviceType(name="cpu", kind="cpu", memory_bytes=16 * 2**30)
    types = gpu_catalogue({})
    known = types[device_at(0, types).gpu_type]
    return DeviceType(
        name=known.name,
        kind="cuda",
        memory_bytes=known.memory_bytes,
        flops_per_s=known.peak_tflops * 1e12,
        bandwidth_bytes_per_s=known.bandwidth_gb_s * 1e9,
    )


def train(
    prepared: dict[str, Any], out: Path, recipe: dict[str, Any], device: str, *, kill_after: str | None = None,
    resume_from: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run the trainer program; return its result with the adapter's hash and the median step.

    Args:
        prepared: What ``prepare`` returned.
        out: Folder of the attempt.
        recipe: Settings of the recipe.
        device: ``cuda`` or ``cpu``.
        kill_after: Kill the program at the first event of this kind, and return the checkpoint's folder.
        resume_from: Folder of a checkpoint.
    """
    from celora.tuning.protocol import Base, TrainRequest  # noqa: PLC0415  (the other cells need not import it)
    from celora.tuning.recipe import Recipe  # noqa: PLC0415  (the same)

    request = TrainRequest(
        job="gpu", attempt=1, cache_dir=prepared["cache"], base=Base(**prepared["base"]),
        prepared_dir=prepared["folder"], recipe=Recipe(**recipe), seed=1, out_dir=str(out), device=device,
        resume_from=resume_from, threads=1 if device == "cpu" else 0,
    )  # fmt: skip
    events = carried_out(request, out.parent, kill_after)
    if kill_after is not None:
        saved = events[-1]
        return {"checkpoint": saved["path"], "step": saved["step"]}
    result = events[-1]["result"]
    times = [event["arrived_s"] for event in events if event["event"] == "progress"][2:]
    step_s = statistics.median(b - a for a, b in pairwise(times))
    weights = next(out.rglob("adapter_model.safetensors"))
    return {**result, "step_s": step_s, "adapter": hashlib.sha256(weights.read_bytes()).hexdigest()}


def carried_out(request: Any, folder: Path, kill_after: str | None = None) -> list[dict[str, Any]]:
    """Run the trainer program on a request; return its events with the moments at which they arrived."""
    from celora.workers.trainer.process import TrainerProcess  # noqa: PLC0415  (the other cells need not import it)

    folder.mkdir(parents=True, exist_ok=True)
    process, events = TrainerProcess(request, folder / "log"), list[dict[str, Any]]()
    try:
        while (arrived := process.events(0.05)) is not None:
            events += [{**event, "arrived_s": time.perf_counter()} for event in arrived]
            if kill_after is not None and (found := next((e for e in events if e["event"] == kill_after), None)):
                process.kill()
                return [found]
    finally:
        process.close()
    if not events or events[-1]["event"] != "done":
        raise RuntimeError(f"the trainer did not end well: {events[-1:]}")
    return events


def doctor(device: str, scratch: Path) -> dict[str, Any]:
    """Run the doctor's trial; without a catalogue base it gets one of random weights."""
    from celora.cli.doctor import smallest_base  # noqa: PLC0415  (the other cells need not import it)
    from celora.errors import BaseModelError  # noqa: PLC0415  (the same)

    try:
        base = smallest_base()
    except BaseModelError:
        base = str(small_base(scratch, hidden=512, layers=8)[0])
    report = scratch / "doctor.json"
    where = ["--gpu"] if device == "cuda" else ["--device", "cpu"]
    start = [sys.executable, "-c", "from celora.cli.app import main; main()"]
    words = ["doctor", *where, "--base-model", base, "--report", str(report)]
    done = subprocess.run([*start, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if line.strip()]
        raise RuntimeError("; ".join(lines[-4:]).replace(str(scratch), "…"))
    made = json.loads(report.read_text())
    kept = ("compute_dtype", "optimizer", "tokens_per_s", "peak_memory_bytes", "resumed_exactly", "seconds")
    return {name: made.get(name) for name in kept} | {"stages": [stage["name"] for stage in made["stages"]]}


CELLS = {"packing": packing, "resident": resident, "resume": resume, "estimate": estimate, "doctor": doctor}


def main() -> int:
    """Run one cell and write its figures, or its error; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("cell", choices=CELLS)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    try:
        found, code = CELLS[asked.cell](asked.device, asked.scratch), 0
    except Exception as error:  # noqa: BLE001  (it is the cell's result, and the other cells run)
        found, code = {"error": f"{type(error).__name__}: {error}".replace(str(asked.scratch), "…")[:500]}, 1
    asked.out.write_text(json.dumps(found), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
