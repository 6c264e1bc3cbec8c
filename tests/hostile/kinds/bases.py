"""Malformed base models: a table of named faults, then seeded mutations of each kind of file, read in this process."""

import json
import os
import random
import resource
import shutil
import socket
import struct
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from hostile.attack import Attempt, kind
from hostile.mutations import altered, mutated, text_of

from celora.errors import BaseModelError, CeloraError, SettingsError

MOST_CPU_S = 10.0
MOST_LETTERS = 2000
MOST_BYTES = 600 * 2**20
"""Memory that all readings together may add to the process."""
CONFIG = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 256, "vocab_size": 258,
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
INDEX = "model.safetensors.index.json"


def make_base(folder: Path) -> Path:
    """A folder with a configuration, a byte-level tokenizer with a chat template, and the weights of an embedding."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    words = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1]}))
    weights = {"model.embed_tokens.weight": np.zeros((258, 16), dtype=np.float32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_gguf(path: Path) -> Path:
    """A small ``.gguf`` file with the fields of a model and two tensors."""
    from gguf import GGUFWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<pad>", "</s>", "a", "b"])
    writer.add_tensor("token_embd.weight", np.zeros((4, 16), dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_base(source: Path, cache: Path) -> None:
    """Read a base as ``prepare`` does: its files, its tokenizer, its chat template."""
    from celora.tuning.bases import base, gguf
    from celora.tuning.bases.generation import stop_tokens
    from celora.tuning.protocol import HubAccess
    from celora.tuning.templates.template_choice import choose

    if source.suffix == ".gguf":
        gguf.read_facts(source)
        return
    found = base.resolve(str(source), None, cache, HubAccess(offline=True), lambda *_, **__: None)
    folder = base.folder(found, cache, HubAccess(offline=True), lambda *_, **__: None)
    choose(base.load_tokenizer(folder), stops=stop_tokens(folder))


def survives(source: Path, cache: Path, *, refused: bool = False) -> None:
    """Read a base: it is refused in a sentence of a base's class, or read, within the limits.

    Args:
        source: The folder or file.
        cache: An installation's cache.
        refused: Whether it has to be refused.
    """
    refusal = None
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_base(source, cache)
    except CeloraError as error:
        refusal = error
    assert refusal or not refused, "it was read"
    assert refusal is None or isinstance(refusal, BaseModelError | SettingsError), f"{refusal!r} is no base's error"
    assert len(str(refusal)) < MOST_LETTERS, f"the refusal has {len(str(refusal))} letters"
    assert "\n" not in str(refusal), "the refusal has more than one line"
    took_s = time.process_time() - began
    assert took_s < MOST_CPU_S, f"it took {took_s:.0f} s"
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert added < MOST_BYTES, f"it took {added / 2**20:.0f} MiB"


def header(folder: Path, content: Any, *, raw: bytes | None = None, length: int | None = None) -> None:
    """Write ``model.safetensors`` with this header."""
    text = raw if raw is not None else json.dumps(content).encode()
    size = len(text) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + bytes(64))


def tensor(**changes: Any) -> dict[str, Any]:
    """A header with one tensor."""
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


def config(**changes: Any) -> Callable[[Path], object]:
    """A change of ``config.json``."""
    return lambda folder: (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def text(name: str, content: str) -> Callable[[Path], object]:
    """Another content of a file."""
    return lambda folder: (folder / name).write_text(content)


def index(weight_map: Any) -> Callable[[Path], object]:
    """An index with this weight map in place of the weights."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return change


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    """A change of ``tokenizer.json``."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return apply


def special(name: str, what: str) -> Callable[[Path], object]:
    """A FIFO, a socket or a link in place of a file."""

    def change(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        if what == "fifo":
            os.mkfifo(path)
        elif what == "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                here = os.open(folder, os.O_PATH)  # the path of a socket is short
                bound.bind(f"/proc/self/fd/{here}/{name}")
                os.close(here)
        else:
            path.symlink_to(what)

    return change


REFUSED: dict[str, Callable[[Path], object]] = {
    "an adapter beside the weights": text("adapter_config.json", '{"peft_type": "LORA"}'),
    "a quantization that is a list": config(quantization_config=["x"]),
    "sizes that are words": config(vocab_size="512", num_hidden_layers=[1]),
    "a text configuration that is a word": config(text_config="boo"),
    "a vocabulary of 10^12": config(vocab_size=10**12),
    "10^7 layers": config(num_hidden_layers=10**7),
    "a width of 2^40": config(hidden_size=2**40),
    "a context of 10^15": config(max_position_embeddings=10**15),
    "negative sizes": config(num_hidden_layers=-1),
    "no model type": config(model_type=None),
    "a model type that is a list": config(model_type=["llama"]),
    "a deep configuration": text("config.json", '{"model_type": "llama", "x": ' + "[" * 50_000 + "]" * 50_000 + "}"),
    "a configuration 900 deep": text("config.json", '{"model_type": "llama", "x": ' + "[" * 900 + "]" * 900 + "}"),
    "a configuration that is a list": text("config.json", "[1]"),
    "a number of 5000 digits": text("config.json", '{"model_type": "llama", "a": ' + "9" * 5000 + "}"),
    "a configuration that is no text": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"),
    "a configuration that is a FIFO": special("config.json", "fifo"),
    "a configuration that is a device": special("config.json", "/dev/zero"),
    "a configuration that is a socket": special("config.json", "socket"),
    "weights that are a FIFO": special("model.safetensors", "fifo"),
    "weights that are a folder": lambda folder: (
        (folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()),
    "a tokenizer that is a FIFO": special("tokenizer.json", "fifo"),
    "a template that is a device": special("chat_template.jinja", "/dev/zero"),
    "a generation configuration that is a FIFO": special("generation_config.json", "fifo"),
    "a link that leads nowhere": special("tokenizer_config.json", "/nowhere"),
    "a header longer than the file": lambda folder: header(folder, {}, length=2**63),
    "tensors that overlap": lambda folder: header(folder, tensor() | {"b": tensor(data_offsets=[8, 24])["a"]}),
    "a negative offset": lambda folder: header(folder, tensor(data_offsets=[-16, 0])),
    "a shape of 2^62": lambda folder: header(folder, tensor(shape=[2**62, 2**62])),
    "no shape": lambda folder: header(folder, {"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "a shape of words": lambda folder: header(folder, tensor(shape=["x"])),
    "a header that is a list": lambda folder: header(folder, [1, 2]),
    "a tensor that is a list": lambda folder: header(folder, {"a": [1]}),
    "offsets that are words": lambda folder: header(folder, tensor(data_offsets=["0", "16"])),
    "an infinite offset": lambda folder: header(
        folder, None, raw=b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1e400]}}'),
    "a deep header": lambda folder: header(folder, None, raw=b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a header that is no text": lambda folder: header(folder, None, raw=b'{"\xff":1}'),
    "an index that leads out": index({"a": "../other/model.safetensors"}),
    "an index of an absolute path": index({"a": "/etc/passwd"}),
    "a weight map that is a list": index(["a"]),
    "a weight map of numbers": index({"a": 5}),
    "a weight map of lists": index({"a": ["model.safetensors"]}),
    "a cut tokenizer": text("tokenizer.json", '{"version": "1.0", "trunc'),
    "an empty tokenizer": text("tokenizer.json", "{}"),
    "a deep tokenizer": text("tokenizer.json", "[" * 200_000),
    "a deep tokenizer configuration": text("tokenizer_config.json", '{"a": ' + "[" * 50_000 + "]" * 50_000 + "}"),
    "a tokenizer configuration that is a list": text("tokenizer_config.json", "[]"),
    "pickles alone": lambda folder: ((folder / "model.safetensors").rename(folder / "pytorch_model.bin"),),
    "code of its own": text("modeling_own.py", "raise SystemExit"),
    "a template that never ends": text("chat_template.jinja", "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"),
    "a template that reads a file": text("chat_template.jinja", "{% include '/etc/passwd' %}"),
    "a template that leaves the sandbox": text("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
}  # fmt: skip
READ: dict[str, Callable[[Path], object]] = {
    "an added token of the highest id": tokenizer(lambda t: t["added_tokens"].append(
        {"id": 2**32 - 1, "content": "<hi>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True})),
    "a normalizer that makes text 1000 times longer": tokenizer(lambda t: t.update(normalizer={
        "type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000})),
    "a pattern that backtracks": tokenizer(lambda t: t.update(pre_tokenizer={
        "type": "Split", "pattern": {"Regex": "(a+)+$|(x+x+)+y"}, "behavior": "Isolated", "invert": False})),
    "a configuration with NaN": text("config.json", json.dumps({**CONFIG, "rms_norm_eps": float("nan")})),
    "weights that are a link inside": lambda folder: (
        (folder / "model.safetensors").rename(folder / "blob"),
        (folder / "model.safetensors").symlink_to("blob")),
    "stop tokens that are objects": text("generation_config.json", '{"eos_token_id": [{"a": 1}]}'),
}  # fmt: skip
"""Faults that need not be refused, and harmless oddities; none may end in anything but a reading or a refusal."""


@kind("bases", "malformed base models: configuration, weights, tokenizer, template, GGUF", minutes=4)
def bases(dice: random.Random, folder: Path) -> Generator[Attempt, None, None]:
    """Named faults of a base's folder first, then mutations."""
    good, cache = make_base(folder / "good"), folder / "cache"
    model = make_gguf(folder / "gguf" / "model.gguf")
    survives_whole(good, model, cache)
    for title, change in [*REFUSED.items(), *READ.items()]:
        yield Attempt(title, lambda change=change, title=title: _named(good, folder / "named", cache, change, title))
    while True:
        name, content = mutation(dice, good, model)
        yield Attempt(
            f"{name} as {content[:120]!r}", lambda n=name, c=content: survives(place(n, c, good, folder), cache)
        )


def survives_whole(good: Path, model: Path, cache: Path) -> None:
    """Read the unchanged base and file, so that a refusal of a change says something."""
    read_base(good, cache)
    read_base(model, cache)


def _named(good: Path, place: Path, cache: Path, change: Callable[[Path], object], title: str) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place)
    change(place)
    survives(place, cache, refused=title in REFUSED)


def mutation(dice: random.Random, good: Path, model: Path) -> tuple[str, bytes]:
    """The name of one file of a base and a mutated content; made before the attempt, so that each takes as many dice.

    Args:
        dice: Choose the file and its changes.
        good: The folder of a good base.
        model: A good ``.gguf`` file.
    """
    name = dice.choice((*JSON_FILES, *JSON_FILES, "model.safetensors", INDEX, "model.gguf", "model.gguf"))
    if name == "model.gguf":
        return name, _mutated_head(model.read_bytes(), dice)
    if name == "model.safetensors":
        return name, _mutated_weights((good / name).read_bytes(), dice)
    whole = {"weight_map": {"a": "model.safetensors"}} if name == INDEX else json.loads((good / name).read_text())
    for _ in range(dice.choice((1, 1, 2, 3))):
        whole = altered(whole, dice)
    content = text_of(whole)
    if dice.random() < 0.4:
        content = mutated((good / name).read_bytes() if name != INDEX else content, dice)
    return name, content


def _mutated_head(content: bytes, dice: random.Random) -> bytes:
    """A GGUF file whose header is mutated, or which is cut anywhere."""
    if dice.random() < 0.2:
        return content[: dice.randrange(len(content))]
    made = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(min(len(made), 900))
        width, number = dice.choice((1, 4, 8)), dice.choice((0, 1, 255, 2**31, 2**62, 2**64 - 1, dice.getrandbits(64)))
        made[at : at + width] = number.to_bytes(8, "little")[:width]
    return bytes(made)


def _mutated_weights(content: bytes, dice: random.Random) -> bytes:
    """A safetensors file whose header is altered as JSON, or whose bytes are mutated."""
    size = struct.unpack("<Q", content[:8])[0]
    if dice.random() < 0.6:
        changed = text_of(altered(json.loads(content[8 : 8 + size]), dice))
        return struct.pack("<Q", len(changed)) + changed + content[8 + size :]
    return mutated(content[: 8 + size], dice) + content[8 + size :]


def place(name: str, content: bytes, good: Path, folder: Path) -> Path:
    """Make a base of which one file has this content: the folder, or the ``.gguf`` file."""
    if name == "model.gguf":
        path = folder / "changed.gguf"
        path.write_bytes(content)
        return path
    base = folder / f"changed-{name}"
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(good, base)
    (base / name).write_bytes(content)
    return base
