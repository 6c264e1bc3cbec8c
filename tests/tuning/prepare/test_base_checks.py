"""A base that cannot work is refused by ``prepare``, before a GPU is held."""

import json
import shutil
from pathlib import Path

import pytest
import transformers

from celora.errors import BaseModelError, SettingsError
from celora.tuning.bases.layout import Layout
from celora.tuning.prepare import base_checks
from celora.tuning.prepare.prepare import prepare
from celora.tuning.protocol import PrepareRequest
from celora.tuning.recipe import Recipe

TINY = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
MIXTURE = TINY | {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 128}
TEMPLATE = "{% for m in messages %}{{ m['content'] + '<eos>' }}{% endfor %}"


@pytest.fixture(scope="module")
def base_of(make_base):
    def make(family, fields):
        folder = Path(make_base(getattr(transformers, f"{family}Config")(**fields), family.lower()).source)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        return folder

    return make


@pytest.fixture
def prepared(tmp_path):
    def run(base, words="w3 w4 w5", **recipe):
        rows = [{"prompt": f"w{n} w9", "completion": f"w{n} {words}"} for n in range(3, 9)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        request = {
            "job": "j", "attempt": 1, "cache_dir": str(tmp_path / "cache"), "base_model": str(base), "op": "check",
            "dataset": str(tmp_path / "rows.jsonl"), "recipe": Recipe(**recipe), "seed": 1, "eval_fraction": 0,
            "out_dir": str(tmp_path / "out"), "threads": 1,
        }  # fmt: skip
        return prepare(PrepareRequest(**request), lambda *_, **__: None)

    return run


def test_target_modules_that_the_base_does_not_have_are_refused(base_of, prepared):
    with pytest.raises(SettingsError, match=r"names down_proj, .* does not have") as caught:
        prepared(base_of("GPT2", GPT2))
    assert "It has c_attn, c_fc, c_proj" in caught.value.hint
    with pytest.raises(SettingsError, match="the list names q_prj"):
        prepared(base_of("Llama", TINY), target_modules=["q_prj"])
    assert prepared(base_of("GPT2", GPT2), target_modules="all-linear").train_rows == 6


def test_an_ordinary_base_is_judged_by_its_headers_alone(base_of, prepared, monkeypatch):
    monkeypatch.setattr("celora.tuning.adapters.lora.try_targets", lambda *_, **__: pytest.fail("it asked the model"))
    for targets in ("full", "all-linear", ["q_proj"]):
        receipt = prepared(base_of("Llama", TINY), target_modules=targets).receipt
        assert "unquantized" not in receipt
        assert not [warned for warned in receipt["warnings"] if warned["name"] == "unquantized"]


def test_a_token_beyond_the_embedding_is_refused_by_its_name_where_a_row_needs_it(base_of, prepared, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(base_of("Llama", TINY), folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|extra|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    assert prepared(folder).train_rows == 6
    with pytest.raises(BaseModelError, match=r"has 97 tokens, and the base has 96 embedding rows.*\(<\|extra\|>\)"):
        prepared(folder, words="w3 <|extra|>")


def test_experts_are_told_with_their_size_in_the_receipt(base_of, prepared):
    base = base_of("Qwen3Moe", MIXTURE)
    receipt = prepared(base, target_modules="attention").receipt
    told = [warned["message"] for warned in receipt["warnings"] if warned["name"] == "unquantized"]
    assert any("are kept in 16 bit and are not adapted" in message for message in told)
    experts = [entry for entry in receipt["unquantized"] if not entry["adapted"]]
    assert sum(entry["bytes"] for entry in experts) == 2 * 4 * 3 * 64 * 64
    with pytest.raises(SettingsError, match="without dropout and without DoRA"):
        prepared(base)
    adapted = prepared(base, dropout=0).receipt
    assert all(entry["adapted"] for entry in adapted["unquantized"])
    told = [warned["message"] for warned in adapted["warnings"] if warned["name"] == "unquantized"]
    assert any("are kept in 16 bit and are adapted, each with matrices of its own" in message for message in told)
    plain = prepared(base, target_modules="attention", quantization="none").receipt
    assert "unquantized" not in plain
    assert ["the experts" in warned["message"] for warned in plain["warnings"] if warned["name"] == "unquantized"] == [
        True
    ]


def test_layers_that_4_bits_cannot_hold_are_counted(base_of):
    layout = Layout.of(base_of("Llama", TINY | {"intermediate_size": 172}))
    (message,) = base_checks.kept_warnings(Recipe(), layout)
    assert message.startswith("3 layers stay in 16 bit (")
    assert list(base_checks.kept_warnings(Recipe(quantization="none"), layout)) == []
