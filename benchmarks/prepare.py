"""What ``prepare`` costs beside the tokenizer it uses, and how much memory a million rows take.

Rows of about 40 tokens (and, to compare, of about 400) are cut out of the standard library's own source; the tokenizer
is trained on the same source, 24,000 tokens. Interleaved rounds, all on the cores of the machine: ``raw`` is the
tokenizers library alone on the rendered texts, ``encode_batch`` in batches of a thousand with nothing kept, its
threads as many as there are cores (TOKENIZERS_PARALLELISM is set so); ``raw_fast`` the same with
``encode_batch_fast``, which finds no offsets; ``prepare`` is all of it, from the file to the arrays on disk: reading,
checking, looking for repeats and private data, rendering, tokenizing, masking, writing, shared out to as many
processes; ``datasets_map`` is the tokenizer through ``datasets``, batched, on texts that are rendered already. Rates
in tokens a second; medians; ratios are of the same round, of the wall clock and of the CPU time of all threads and
processes, which other work on the machine disturbs less. Then one child process prepares a million rows; told are the
most memory that it held itself (VmHWM of the kernel) and the most that it and its copies held together (their shares
of what they share, PSS, looked at four times a second); then it tokenizes the same rows as ``raw`` does, for the ratio
at that size. ``dedupe`` is what finding exact and normalised repeats costs by itself, in one process: the hashes of
rows that are read already, and the look at the hashes. The load average before and after says how quiet the machine
was.

    python benchmarks/prepare.py [--rows N] [--rounds N] [--write]
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
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

SHORT_WORDS, LONG_WORDS = 18, 180
SOURCE_BYTES = 8_000_000
BATCH = 1000
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    """Print one JSON object; with ``--write`` also write it into ``results/``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the run that measures memory; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-rows", type=int, default=240_000, help="short rows of a round")
    parser.add_argument("--write", action="store_true", help="write results/prepare.json")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child)
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), asked)
    facts["load_average_after"] = load()
    text = json.dumps(facts, indent=1)
    print(text)
    if asked.write:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        (results / "prepare.json").write_text(text + "\n")


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    words = source_words()
    make_base(folder / "base", words)
    facts: dict[str, Any] = {"cores": os.cpu_count(), "rounds": asked.rounds, "load_average_before": load()}
    kinds = {"short": (asked.round_rows, SHORT_WORDS), "long": (asked.round_rows // 8, LONG_WORDS)}
    for kind, (count, length) in kinds.items():
        data = write_rows(folder / f"{kind}.jsonl", words, count, length)
        facts[kind] = rounds(folder, data, count, asked.rounds)
    facts["dedupe"] = dedupe(words, asked.round_rows, asked.rounds)
    if asked.rows:
        data = write_rows(folder / "many.jsonl", words, asked.rows, SHORT_WORDS)
        facts["many"] = in_child(folder, data)
    return facts


def dedupe(words: list[str], count: int, number: int) -> dict[str, Any]:
    """Documents a second of the search for repeats, on rows a tenth of which repeat another one."""
    from celora.tuning.findings import Notes, normalised, repeats  # noqa: PLC0415  (as above)

    rng = random.Random(7)  # noqa: S311  (dice with a seed)
    starts = [rng.randrange(len(words) - SHORT_WORDS) for _ in range(count - count // 10)]
    starts += rng.choices(starts, k=count // 10)
    said = [[" ".join(words[at : at + SHORT_WORDS]), " ".join(words[at : at + SHORT_WORDS // 2])] for at in starts]
    took: list[float] = []
    found = 0
    for _ in range(number):
        began, notes = time.process_time(), Notes()
        for one in said:
            notes.exact.append(hash(("", "user", "assistant", *one)))
            notes.normal.append(hash(("", "user", "assistant", *map(normalised, one))))
        found = repeats(notes).total
        took.append(time.process_time() - began)
    return {"rows": count, "repeats": found, "rows_per_cpu_s": round(count / statistics.median(took))}


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
    weights = {"model.embed_tokens.weight": np.zeros((len(tokenizer), 16), dtype=np.float32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_rows(path: Path, words: list[str], count: int, length: int) -> Path:
    """Chat rows whose messages are runs of the source."""
    rng = random.Random(7)  # noqa: S311  (dice with a seed)

    def run() -> str:
        start = rng.randrange(len(words) - length)
        return " ".join(words[start : start + length]).strip() or "pass"

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [{"role": "user", "content": run()}, {"role": "assistant", "content": run()}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def rounds(folder: Path, data: Path, count: int, number: int) -> dict[str, Any]:
    """Interleaved rounds on one file."""
    from datasets import Dataset, disable_caching, disable_progress_bars  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    disable_caching()
    disable_progress_bars()
    texts = [rendered(line) for line in data.read_text(encoding="utf-8").splitlines()]
    inner = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
    wrapped = PreTrainedTokenizerFast.from_pretrained(folder / "base")
    tokens = 0

    def raw(encode: Callable[..., Any]) -> None:
        nonlocal tokens
        tokens = 0
        for at in range(0, len(texts), BATCH):
            encodings = encode(texts[at : at + BATCH], add_special_tokens=False)
            tokens += sum(map(len, encodings))

    def mapped() -> None:
        rows = Dataset.from_dict({"text": texts})
        rows.map(lambda batch: wrapped(batch["text"]), batched=True, batch_size=BATCH, remove_columns=["text"])

    def whole() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            prepare_rows(folder / "base", data, Path(place))

    ways: dict[str, Callable[[], None]] = {
        "raw": lambda: raw(inner.encode_batch),
        "prepare": whole,
        "raw_fast": lambda: raw(inner.encode_batch_fast),
        "datasets_map": mapped,
    }
    took = [{name: seconds(way) for name, way in ways.items()} for _ in range(number + 1)][1:]  # the first is warm-up
    facts: dict[str, Any] = {"rows": count, "tokens_per_row": round(tokens / count, 1)}
    for name in ways:
        facts[f"{name}_tokens_per_s"] = round(tokens / statistics.median(one[name][0] for one in took))
    for name in ("prepare", "datasets_map"):
        for kind, index in (("", 0), ("_cpu", 1)):
            for reference in ("raw", "raw_fast"):
                ratio = statistics.median(one[reference][index] / one[name][index] for one in took)
                facts[f"{name}_of_{reference}{kind}"] = round(ratio, 3)
    return facts


def rendered(line: str) -> str:
    """A row as the template writes it."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in json.loads(line)["messages"])


def seconds(way: Callable[[], object]) -> tuple[float, float]:
    """How long it takes: by the clock, and in CPU time of all threads and of processes that have ended."""
    started, used = time.perf_counter(), cpu_s()
    way()
    return time.perf_counter() - started, cpu_s() - used


def cpu_s() -> float:
    """CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def prepare_rows(base: Path, data: Path, place: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Prepare a file; the result, and the phases that were told."""
    from celora.tuning.dataset import prepare  # noqa: PLC0415  (the parent of the child needs none of it)
    from celora.tuning.protocol import HubAccess, PrepareRequest  # noqa: PLC0415
    from celora.tuning.recipe import Recipe  # noqa: PLC0415

    phases: list[dict[str, Any]] = []

    def emit(event: str, **fields: Any) -> None:
        if event == "phase":
            phases.append({**fields, "at_s": time.monotonic()})

    request = PrepareRequest(
        job="bench", attempt=1, cache_dir=str(place / "cache"), hub=HubAccess(offline=True), base_model=str(base),
        dataset=str(data), recipe=Recipe(), seed=1, out_dir=str(place / "out"),
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
    raw, raw_cpu = raw_s(folder, data)
    facts = {
        "rows": result.train_rows + sum(result.eval_rows.values()),
        "train_tokens": result.train_tokens,
        "seconds": round(taken, 1),
        "cpu_seconds": round(taken_cpu, 1),
        "raw_seconds": round(raw, 1),
        "raw_cpu_seconds": round(raw_cpu, 1),
        "prepare_of_raw": round(raw / taken, 3),
        "prepare_of_raw_cpu": round(raw_cpu / taken_cpu, 3),
        "peak_memory_bytes": held,
        "torch_loaded": "torch" in sys.modules,
        "phases_s": took,
    }
    print(json.dumps(facts))


def raw_s(folder: Path, data: Path) -> tuple[float, float]:
    """How long the tokenizer alone takes for the rows of a file, rendered beforehand: by the clock, and in CPU time."""
    from tokenizers import Tokenizer  # noqa: PLC0415  (as above)

    inner = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
    took = [0.0, 0.0]
    with data.open(encoding="utf-8") as file:
        while texts := [rendered(line) for line in islice(file, BATCH)]:
            used = seconds(lambda texts=texts: inner.encode_batch(texts, add_special_tokens=False))
            took = [total + one for total, one in zip(took, used, strict=True)]
    return took[0], took[1]


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
