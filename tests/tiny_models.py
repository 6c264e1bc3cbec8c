"""A tiny random model and its prepared data, made in the test session with fixed seeds: real files, no network."""

import json
import os
import threading
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# bitsandbytes loads torch's compiler when it is imported: a fifth of the CPU time in which a trainer starts, and the
# tests start more than a hundred. Its few compiled functions run as they are, as on a machine without a C++ compiler.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import numpy as np
import pytest

from celora.tuning.protocol import Base, HubAccess, PrepareResult, TrainRequest
from celora.tuning.recipe import Recipe, ResolvedRecipe

WORDS = 96


@pytest.fixture(scope="session")
def make_base(tmp_path_factory):
    """Make a random model of a transformers configuration, with a word-level tokenizer; resolved as a base."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)

    def make(config, name="base"):
        from celora.tuning.bases.base import resolve

        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, WORDS)}}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
        ).save_pretrained(folder)
        return resolve(str(folder), None, tmp_path_factory.getbasetemp() / "cache", HubAccess(), lambda *_, **__: None)

    return make


@pytest.fixture(scope="session")
def tiny_base(make_base):
    from transformers import LlamaConfig

    return make_base(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
        ),
        "llama",
    )


def write_set(folder, name, rows):
    """One prepared set in the documented layout."""
    np.save(folder / f"{name}.tokens.npy", np.concatenate([row[0] for row in rows]).astype(np.int32))
    np.save(folder / f"{name}.mask.npy", np.concatenate([row[1] for row in rows]).astype(np.uint8))
    np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *(len(row[0]) for row in rows)]).astype(np.int64))


def rows(count, *, seed):
    """Rows with something to learn: a prompt of random words, then each of them again, plus one."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        prompt = rng.integers(3, WORDS - 1, rng.integers(3, 9))
        tokens = np.concatenate([prompt, prompt + 1, [1]])
        mask = np.concatenate([np.zeros(len(prompt)), np.ones(len(prompt) + 1)])
        made.append((tokens, mask))
    return made


@pytest.fixture(scope="session")
def make_prepared(tmp_path_factory):
    """A prepared folder for a base."""

    def make(base: Base, *, train=22, held_out=6, seed=1) -> Path:
        from celora.tuning.bases.base import load_tokenizer

        folder = tmp_path_factory.mktemp("prepared")
        train_rows = rows(train, seed=seed)
        write_set(folder, "train", train_rows)
        if held_out:
            eval_rows = rows(held_out, seed=seed + 1)
            write_set(folder, "eval.eval", eval_rows)
            with (folder / "eval.eval.rows.jsonl").open("w") as file:
                for tokens, mask in eval_rows:
                    prompt = [int(token) for token, trained in zip(tokens, mask, strict=True) if not trained]
                    text = " ".join(f"w{token}" for token in prompt)
                    file.write(json.dumps({"prompt_tokens": prompt, "prompt": text, "reference": text}) + "\n")
        load_tokenizer(Path(base.source)).save_pretrained(folder / "tokenizer")
        result = PrepareResult(
            base=base,
            dataset_sha256="0" * 64,
            train_rows=train,
            eval_rows={"eval": held_out} if held_out else {},
            train_tokens=sum(len(row[0]) for row in train_rows),
            trained_tokens=int(sum(row[1].sum() for row in train_rows)),
            max_length=64,
            template="own",
            memory_bytes=0,
            receipt={},
        )
        facts = {**result.model_dump(mode="json"), "settings": {}}
        (folder / "prepared.json").write_text(json.dumps(facts))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_prepared(make_prepared, tiny_base):
    return make_prepared(tiny_base)


@pytest.fixture
def make_request(tmp_path, tmp_path_factory, tiny_base, tiny_prepared):
    """A train request on the tiny base; keyword arguments change the recipe, ``request`` the request's own fields."""

    def make(*, base=tiny_base, prepared=tiny_prepared, out="out", request=None, **recipe) -> TrainRequest:
        settings = {
            "rank": 4,
            "alpha": 8,
            "quantization": "none",
            "micro_batch": 2,
            "accumulation": 2,
            "epochs": 2,
            "learning_rate": 5e-3,
            **recipe,
        }
        compute_dtype = settings.pop("compute_dtype", "float32")
        plain = Recipe(**settings)
        resolved = ResolvedRecipe(
            **{
                **plain.model_dump(),
                "effective_batch": plain.micro_batch * plain.accumulation,
                "max_length": 64,
                "gradient_checkpointing": settings.get("gradient_checkpointing", False),
                "optimizer": settings.get("optimizer", "adamw"),
                "compute_dtype": compute_dtype,
            }
        )
        fields = {
            "job": "job",
            "attempt": 1,
            "cache_dir": str(tmp_path_factory.getbasetemp() / "cache"),
            "hub": HubAccess(offline=True),
            "threads": 1,
            "base": base,
            "prepared_dir": str(prepared),
            "recipe": plain,
            "resolved": resolved,
            "seed": 11,
            "out_dir": str(tmp_path / out),
            **(request or {}),
        }
        return TrainRequest(**fields)

    return make


class Recorder:
    """An ``emit`` that keeps what it is told; ``on`` may act on an event."""

    def __init__(self, on=None):
        self.events, self.stop, self._on = [], threading.Event(), on

    def __call__(self, event, **fields):
        self.events.append((event, fields))
        if self._on is not None:
            self._on(self, event, fields)

    def of(self, event):
        return [fields for name, fields in self.events if name == event]

    @property
    def names(self):
        return [name for name, _ in self.events]


@pytest.fixture
def recorder():
    return Recorder


@pytest.fixture(scope="session")
def bare_base(tmp_path_factory):
    """Makes a base that ``prepare`` takes: a configuration, a byte-level tokenizer with a template, weights of zero."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(template):
        folder = tmp_path_factory.mktemp("bare")
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = {word: number for number, word in enumerate(["<pad>", "</s>", *alphabet])}
        inner = Tokenizer(models.BPE(words, []))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        config |= {"num_attention_heads": 2, "max_position_embeddings": 256, "vocab_size": len(tokenizer)}
        (folder / "config.json").write_text(json.dumps(config))
        sides = {f"self_attn.{name}_proj": (16, 16) for name in "qkvo"}
        sides |= {"mlp.gate_proj": (32, 16), "mlp.up_proj": (32, 16), "mlp.down_proj": (16, 32)}
        weights = {f"model.layers.0.{name}.weight": np.zeros(shape, dtype=np.float32) for name, shape in sides.items()}
        weights |= {"model.embed_tokens.weight": np.zeros((len(tokenizer), 16), dtype=np.float32)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make
