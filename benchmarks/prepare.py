"""Compares the CPU time of ``prepare`` with TRL's own preparation of the same rows, and measures its memory.

Rows of about 40 tokens are cut out of the standard library's own source; the tokenizer is trained on the same source,
24,000 tokens. A row is prompt and completion, each a list of messages, which TRL takes as it is. ``trl`` is
``SFTTrainer._prepare_dataset`` of the installed TRL on the same file, read by ``datasets``: the chat template, the
tokens, the completion mask, the labels and the cut to the maximum length, in one process as by its default. The name
``prepare`` stands for all of celora's: reading, checking, looking for repeats and private data, the held-out split,
rendering, tokenizing, masking, writing. Rounds are interleaved; a figure is the median of the rounds; CPU seconds
count all threads and processes, which other work on the machine disturbs less than the clock. A first run of a few
rows loads the libraries of both.

The aim: at most 0.75 of TRL's CPU seconds at 20,000 and at 240,000 rows. A child process prepares a million rows and
tells the most memory that it held itself (VmHWM of the kernel) and together with its copies (PSS, looked at four times
a second). The aim there: below 320 MB.

    python benchmarks/prepare.py [--sizes N N] [--rounds N] [--memory-rows N] [--write]
"""

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

WORDS = 18
SOURCE_BYTES = 8_000_000
BATCH = 1000
WARM_UP_ROWS = 200
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MAX_LENGTH = 2048


def main() -> None:
    """Print one JSON object; with ``--write`` also keep it in ``results/``, beside what was not measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[20_000, 240_000], help="rows of each comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-rows", type=int, default=1_000_000, help="rows of the memory run; 0: none")
    parser.add_argument("--write", action="store_true", help="write results/prepare.json")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), asked)
    facts["load_average_after"] = load()
    text = json.dumps(facts, indent=1)
    print(text)
    if asked.write:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        kept = results / "prepare.json"
        before = json.loads(kept.read_text()) if kept.exists() else {}
        kept.write_text(json.dumps({**before, **facts}, indent=1) + "\n")


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    words = source_words()
    make_base(folder / "base", words)
    facts: dict[str, Any] = {"cores": os.cpu_count(), "rounds": asked.rounds, "load_average_before": load()}
    if asked.sizes:
        compare(folder, words, WARM_UP_ROWS, 1)
        facts["compared"] = [compare(folder, words, count, asked.rounds) for count in asked.sizes]
    if asked.memory_rows:
        data = write_rows(folder / "many.jsonl", words, asked.memory_rows)
        facts["memory"] = in_child(folder, data)
    return facts


def compare(folder: Path, words: list[str], count: int, rounds: int) -> dict[str, Any]:
    """CPU seconds of both for the same rows, in interleaved rounds."""
    data = write_rows(folder / f"{count}.jsonl", words, count)
    found: dict[str, tuple[int, int]] = {}

    def ours() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            result, _ = prepare_rows(folder / "base", data, Path(place), duplicates="keep")
        found["prepare"] = (result.train_tokens, result.trained_tokens)

    def theirs() -> None:
        found["trl"] = trl_prepare(folder / "base", data)

    took = [(cpu_s_of(ours), cpu_s_of(theirs)) for _ in range(rounds)]
    return {
        "rows": count,
        "tokens": found["trl"][0],
        "prepare_tokens": found["prepare"][0],
        "trl_trained_tokens": found["trl"][1],
        "prepare_trained_tokens": found["prepare"][1],
        "prepare_cpu_s": round(statistics.median(one for one, _ in took), 2),
        "trl_cpu_s": round(statistics.median(other for _, other in took), 2),
        "prepare_of_trl": round(statistics.median(one / other for one, other in took), 3),
    }


def trl_prepare(base: Path, data: Path) -> tuple[int, int]:
    """TRL's preparation of a file: its tokens, and how many of them carry loss.

    The method is called without a trainer, since a trainer wants a model: of itself it reads the three fields below.
    """
    from datasets import Dataset, disable_caching, disable_progress_bars  # noqa: PLC0415  (the child loads none of it)
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    disable_caching()
    disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    with tempfile.TemporaryDirectory(dir=base.parent) as place:
        rows = Dataset.from_json(str(data), cache_dir=place)
        arguments = SFTConfig(
            output_dir=place, max_length=MAX_LENGTH, bf16=False, use_cpu=True,
            report_to="none",
        )  # fmt: skip
        trainer: Any = SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=True)
        done = SFTTrainer._prepare_dataset(trainer, rows, tokenizer, arguments, False, None, "train")  # noqa: SLF001, FBT003
        tokens = trained = 0
        for batch in done.select_columns(["labels"]).with_format("arrow").iter(BATCH):
            labels = batch["labels"].combine_chunks().flatten().to_numpy()
            tokens, trained = tokens + len(labels), trained + int((labels != -100).sum())  # noqa: PLR2004
    return tokens, trained


def cpu_s_of(work: Callable[[], object]) -> float:
    """CPU time of a piece of work, of all threads and of processes that have ended."""
    used = cpu_s()
    work()
    return cpu_s() - used


def cpu_s() -> float:
    """CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def load() -> list[float]:
    """The machine's load average over 1, 5 and 15 minutes."""
    return [round(number, 1) for number in os.getloadavg()]


def source_words() -> list[str]:
    """Words of the standard library's source, in order, with the white space before each."""
    text = ""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text += path.read_text(encoding="utf-8", errors="ignore")
        if len(text) > SOURCE_BYTES:
            break
    return text.split(" ")


def make_base(folder: Path, words: list[str]) -> None:
    """A folder that resolves as a base: a tokenizer, a configuration, and weights that nobody reads."""
    import numpy as np  # noqa: PLC0415  (the child that measures memory loads only what prepare loads)
    from safetensors.numpy import save_file  # noqa: PLC0415
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=24_000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator((" ".join(words[at : at + BATCH]) for at in range(0, len(words), BATCH)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=special[0], eos_token=special[1], extra_special_tokens=special[2:]
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 2048,
        "vocab_size": len(tokenizer), "dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    sides = {"self_attn": ((16, 16), "q_proj k_proj v_proj o_proj"), "mlp": ((32, 16), "gate_proj up_proj")}
    weights = {"model.embed_tokens.weight": np.zeros((len(tokenizer), 16), dtype=np.float32)}
    weights["model.layers.0.mlp.down_proj.weight"] = np.zeros((16, 32), dtype=np.float32)
    for block, (shape, names) in sides.items():
        for name in names.split():  # a base whose headers name its layers needs no torch to be checked
            weights[f"model.layers.0.{block}.{name}.weight"] = np.zeros(shape, dtype=np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_rows(path: Path, words: list[str], count: int, length: int = WORDS) -> Path:
    """Rows of a prompt and a completion, both lists of messages that are runs of the source."""
    rng = random.Random(7)  # noqa: S311  (dice with a seed)

    def run() -> str:
        start = rng.randrange(len(words) - length)
        return " ".join(words[start : start + length]).strip() or "pass"

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            sides = {"prompt": "user", "completion": "assistant"}
            row = {key: [{"role": role, "content": run()}] for key, role in sides.items()}
            file.write(json.dumps(row) + "\n")
    return path


def prepare_rows(base: Path, data: Path, place: Path, *, duplicates: str = "drop") -> tuple[Any, list[dict[str, Any]]]:
    """Prepare a file; the result, and the phases that were told."""
    from celora.tuning.prepare.prepare import prepare  # noqa: PLC0415  (the parent of the child needs none of it)
    from celora.tuning.protocol import HubAccess, PrepareRequest  # noqa: PLC0415
    from celora.tuning.recipe import Recipe  # noqa: PLC0415

    phases: list[dict[str, Any]] = []

    def emit(event: str, **fields: Any) -> None:
        if event == "phase":
            phases.append({**fields, "at_s": time.monotonic()})

    request = PrepareRequest(
        job="bench", attempt=1, cache_dir=str(place / "cache"), hub=HubAccess(offline=True), base_model=str(base),
        dataset=str(data), recipe=Recipe(max_length=MAX_LENGTH), seed=1,
        out_dir=str(place / "out"), duplicates=duplicates,
    )  # fmt: skip
    return prepare(request, emit), phases


def in_child(folder: Path, data: Path) -> dict[str, Any]:
    """Prepare a file in a fresh process."""
    command = [sys.executable, __file__, "--child", str(folder)]
    most = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        held, ended = psutil.Process(process.pid), threading.Event()

        def look() -> None:
            nonlocal most
            while not ended.wait(0.25):
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended a moment ago
                    most = max(most, memory_bytes(held))

        watch = threading.Thread(target=look)
        watch.start()
        output, _ = process.communicate(str(data))
        ended.set()
        watch.join()
    return {**json.loads(output.splitlines()[-1]), "peak_memory_bytes_with_copies": most}


def memory_bytes(process: psutil.Process) -> int:
    """What a process and its children hold now, each its share of what several hold."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            total += one.memory_full_info().pss
    return total


def child(folder: Path) -> None:
    """The fresh process: prepare, and say what it took."""
    data, started, used = Path(sys.stdin.read()), time.perf_counter(), cpu_s()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        result, phases = prepare_rows(folder / "base", data, Path(place))
    taken, taken_cpu, held = time.perf_counter() - started, cpu_s() - used, peak_memory_bytes()
    took = dict(durations(phases))
    facts = {
        "rows": result.train_rows + sum(result.eval_rows.values()),
        "train_tokens": result.train_tokens,
        "seconds": round(taken, 1),
        "cpu_seconds": round(taken_cpu, 1),
        "peak_memory_bytes": held,
        "torch_loaded": "torch" in sys.modules,
        "phases_s": {name.replace(f"{folder}/", ""): seconds for name, seconds in took.items()},
    }
    print(json.dumps(facts))


def durations(phases: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Seconds by phase."""
    began: dict[str, float] = {}
    for event in phases:
        began.setdefault(event["phase"], event["at_s"])
    edges = [*began.values(), time.monotonic()]
    for (name, start), end in zip(began.items(), edges[1:], strict=True):
        yield name, round(end - start, 1)


def peak_memory_bytes() -> int:
    """The most memory that this process held, of the kernel's own account."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
