import json

import pytest

from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.settings.settings import get_settings


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A base as far as a check looks at it: configuration, tokenizer, and weights of the right shape."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "one", "two", "1", "2"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128, "vocab_size": len(words),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"model.embed_tokens.weight": np.zeros((len(words), 16), dtype=np.float32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.slow
def test_a_check_says_it_all_writes_nothing_and_ends_in_0(celora, rows, base, new_home):
    result = celora("check", rows, "--base-model", base, "--rank", "4", "--eval-fraction", "0", "--json")
    assert result.exit_code == 0, result.stderr
    receipt = result.json()
    assert (receipt["ok"], receipt["error"], receipt["sets"]["train"]["rows"]) == (True, None, 2)
    assert {"cpu", "t4", "h100"} <= {device["name"] for device in receipt["estimate"]["devices"]}
    assert {"few_rows", "nothing_held_out"} <= {warning["name"] for warning in receipt["warnings"]}
    assert not list((new_home / "scratch").rglob("*"))
    assert not (new_home / "artifacts").exists()
    assert not (new_home / "celora.db").exists()


@pytest.mark.slow
def test_bad_data_ends_in_1_with_every_kind_of_bad_line(celora, rows):
    rows.write_text(rows.read_text() + '{"prompt": "x", "completion": ""}\n{\n')
    result = celora("check", rows, "--base-model", "smollm2-135m-instruct")
    assert result.exit_code == 1
    assert "2 bad lines: 1 empty, 1 bad_json" in result.stdout
    assert "3     completion  empty" in result.stdout
    assert "this data can't be trained on: 2 bad lines in train.jsonl" in result.stderr
    told = celora("check", rows, "--base-model", "smollm2-135m-instruct", "--json")
    assert told.exit_code == 1
    assert told.json()["error"]["code"] == "bad_data"
    assert [line["line"] for line in told.json()["files"][0]["bad"]["lines"]] == [3, 4]


ANSWERED = {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "method"),
    [([{**ANSWERED, "label": label} for label in (True, False)], "kto"),
     ([{"prompt": asked, "chosen": "two", "rejected": "1"} for asked in ("one", "2")], "dpo")],
)  # fmt: skip
def test_preference_rows_end_in_0_without_a_method_and_name_the_one_that_fits(celora, rows, base, made, method):
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    result = celora("check", rows, "--base-model", base, "--eval-fraction", "0", "--duplicates", "keep", "--json")
    assert result.exit_code == 0, result.stderr
    assert any(f"method: {method}" in warned["message"] for warned in result.json()["warnings"])


@pytest.mark.slow
def test_a_check_of_what_goes_on_from_an_adapter_takes_its_base_and_shape(celora, rows, base, tables, contestant):
    contestant("first", {"base": [], "tuned": []}, base=str(base), rank=4, alpha=8)
    found = {"source": str(base), "kind": "folder", "name": str(base), "revision": "r1", "parameters": 1}
    with get_database().transaction(Scope.everything) as session:
        session.get(Job, "first").base = {**found, "context_tokens": 128, "model_type": "llama"}
    result = celora("check", rows, "--continue-from", "first", "--eval-fraction", "0", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json()["base"]["name"] == str(base)
    assert celora("check", rows, "--continue-from", "first", "--rank", "2").exit_code == 64


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["none.jsonl", "--base-model", "x"], 65, "the dataset none.jsonl is no file here"),
        (["train.jsonl"], 64, "base_model is missing"),
        (["train.jsonl", "--base-model", "x", "--ranck", "3"], 64, "ranck is no field; did you mean rank?"),
        (["train.jsonl", "more.jsonl", "--base-model", "x"], 64, "train.jsonl, more.jsonl are 2"),
        (["faq@3", "--base-model", "x"], 66, "there is no dataset faq"),
        (["train.jsonl", "--continue-from", "gone"], 66, "continue_from: the tenant default has no job, adapter or"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_a_sentence(celora, rows, words, code, sentence):
    result = celora("check", *words)
    assert result.exit_code == code, result.stderr
    assert sentence in result.stderr


@pytest.mark.slow
def test_what_is_not_the_datas_fault_keeps_its_own_exit_code(celora, rows):
    result = celora("check", rows, "--base-model", "./nowhere")
    assert result.exit_code == 69
    assert "nowhere" in result.stderr


def test_a_job_shows_the_receipt_of_its_latest_attempt_that_has_one(celora, job):
    result = celora("receipt", job)
    assert result.exit_code == 66
    assert "has no receipt yet; it is pending" in result.stderr
    with get_database().transaction(Scope.everything) as session:
        session.get(Job, job).attempt = 3
    for attempt, name in ((1, "first"), (2, "second")):
        folder = get_settings().home / "artifacts" / "jobs" / job / f"attempt-{attempt}"
        folder.mkdir(parents=True)
        (folder / "receipt.json").write_text(json.dumps({"name": name}))
    assert celora("receipt", job, "--json").json() == {"name": "second"}
