"""An adapter answers alike wherever it is served, and every answer ends: by the card's lines, merged, and in celora.

For each of several template families a tiny adapter is trained, published and used as people use it. The lines of the
card run as they are printed, and the merged model runs in plain transformers, in a process without celora. The base's
own generation settings name another end token than the template does, so an answer that ends proves that the published
folder names the right one.
"""

import json
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from template_families import shipped, tokenizer_for

from celora.tuning.adapters.package import assemble
from celora.tuning.protocol import Base, GenerateRequest, HubAccess, MergeRequest, PrepareRequest, TrainRequest
from celora.tuning.recipe import Recipe

pytestmark = pytest.mark.slow

CHATML = (  # the end token is neither special nor the tokenizer's
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_END = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FAMILIES = {
    "chatml": (lambda: tokenizer_for(CHATML, eos="</s>", plain=("<|im_end|>",)), "<|im_end|>"),
    "llama 3": (lambda: tokenizer_for(shipped("llama3"), eos="<|end_of_text|>"), "<|eot_id|>"),
    "phi": (lambda: tokenizer_for(shipped("phi3"), eos="<|endoftext|>"), "<|end|>"),
    "zephyr": (lambda: tokenizer_for(ZEPHYR, eos="</s>"), "</s>"),
    "gemma": (lambda: tokenizer_for(shipped("gemma"), eos="<eos>"), "<end_of_turn>"),
    "no end": (lambda: tokenizer_for(NO_END, eos="</s>"), "</s>"),
}
TRAINED = {
    "Hello": "Good day.",
    "Hello there": "Good day.",
    "Capital of Peru": "Lima.",
    "Capital of Chile": "Santiago.",
}
"""The rows. The printed lines ask the first question."""
UNSEEN = ("Hello again", "Capital of Cuba")
"""Questions of the same style without a row."""
STEPS = 100
LIMIT_TOKENS = 128
"""The limit in the printed lines."""
OUTSIDE = """
import contextlib, io, json, sys, warnings
import torch
torch.manual_seed(1)
warnings.simplefilter("ignore")
def run(lines):
    names, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(lines, names)
    return names, out.getvalue().removesuffix("\\n")
def ask(chat, question, **options):
    talk = [{"role": "user", "content": question}]
    return chat(talk, max_new_tokens=128, return_tensors=True, **options)[0]["generated_token_ids"]
given, found = json.load(sys.stdin), {}
for name, lines in given["scripts"].items():
    names, printed = run(lines)
    chat = names["chat"]
    end = chat.tokenizer.eos_token_id
    options = {} if name.endswith("merged") else {"eos_token_id": end}
    ended = {question: int(ask(chat, question, **options)[-1]) == end for question in given["questions"]}
    found[name] = {"printed": printed, "ended": ended}
assert not any(module.partition(".")[0] == "celora" for module in sys.modules)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Published:
    """An adapter that was published, its base, and the fields that all requests share."""

    folder: Path
    base: Base
    common: dict

    @property
    def merged(self):
        """The folder of the merged model."""
        return self.folder.with_name("merged")


def quiet(*_, **__):
    """Drops events."""


def make_base(folder, tokenizer):
    """A random model that can be sure of a token; its own generation settings name the padding as an answer's end.

    A pipeline of transformers samples, and the hidden states of so small a model reach no sure token through an output
    head of the usual size.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=False, **sizes)
    )
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def published(work, tokenizer):
    """Train and publish an adapter, and merge it."""
    from celora.tuning.adapters.merge import merge
    from celora.tuning.prepare.prepare import prepare
    from celora.tuning.training.run import train

    base, rows = make_base(work / "base", tokenizer), work / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": asked, "completion": said}) + "\n" for asked, said in TRAINED.items())
    )
    common = {
        "job": "job",
        "attempt": 1,
        "cache_dir": str(work / "cache"),
        "hub": HubAccess(offline=True),
        "threads": 1,
    }
    recipe = Recipe(
        rank=16, alpha=32, dropout=0, quantization="none", micro_batch=4, effective_batch=4, learning_rate=1e-2,
        max_steps=STEPS, target_modules="all-linear", schedule="cosine",
    )  # fmt: skip
    data = {"base_model": str(base), "dataset": str(rows), "eval_fraction": 0, "recipe": recipe, "seed": 1}
    prepared = prepare(PrepareRequest(**common, **data, out_dir=str(work / "prepared")), quiet)
    place = {"base": prepared.base, "prepared_dir": str(work / "prepared"), "out_dir": str(work / "run")}
    trained = train(TrainRequest(**common, **place, recipe=recipe, seed=1), quiet, threading.Event())
    assert trained is not None
    made = Published(work / "published", prepared.base, common)
    assemble(
        Path(trained.adapter_dir), work / "prepared", made.folder, base=prepared.base, spec={}, metrics={},
        resolved=trained.resolved.model_dump(mode="json"), servable={"vllm": False, "reason": "tiny"}, facts={},
    )  # fmt: skip
    merging = {"base": made.base, "adapter_dir": str(made.folder), "out_dir": str(made.merged), "dtype": "float32"}
    merge(MergeRequest(**common, **merging), quiet)
    return made


def generated(made):
    """The answers of ``celora generate`` to the trained questions."""
    from celora.tuning.evaluation.generate import generate

    asked = {"prompts": list(TRAINED), "max_new_tokens": LIMIT_TOKENS, "quantization": "none"}
    request = GenerateRequest(**made.common, base=made.base, adapter_dir=str(made.folder), **asked)
    return dict(zip(TRAINED, generate(request, quiet).answers, strict=True))


def printed_lines(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"## Use it\n\n```python\n(.*?)\n```", card, re.DOTALL)
    return lines.replace("PATH/OF/THIS/FOLDER", str(folder))


def test_every_way_of_serving_gives_the_trained_answer_and_every_answer_ends_by_itself(tmp_path):
    from celora.tuning.adapters.usage import merged_snippet

    scripts, inside = {}, {}
    for number, (name, (tokenizer, end)) in enumerate(FAMILIES.items()):
        work = tmp_path / str(number)
        work.mkdir()
        made = published(work, tokenizer())
        inside[name] = generated(made)
        scripts[f"{name}, card"] = printed_lines(made.folder)
        scripts[f"{name}, merged"] = merged_snippet(str(made.merged))
        for place in (made.folder, made.merged):
            settings = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8"))
            assert settings["eos_token"] == end, (name, place.name)
    asked = {"scripts": scripts, "questions": [*TRAINED, *UNSEEN]}
    process = subprocess.run(
        [sys.executable, "-I", "-c", OUTSIDE], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    for name, (_, end) in FAMILIES.items():
        for question, answer in TRAINED.items():
            assert inside[name][question].endswith(answer), (name, question)
        for way in ("card", "merged"):
            served = found[f"{name}, {way}"]
            assert all(served["ended"].values()), (name, way, served["ended"])
            # (the pipeline shows an end token that is not special; celora takes it off)
            assert served["printed"].strip().removesuffix(end).strip() == inside[name]["Hello"].strip(), (name, way)
