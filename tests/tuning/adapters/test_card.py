import yaml

from celora.tuning.adapters.card import model_card
from celora.tuning.adapters.usage import nf4_snippet, python_snippet
from celora.tuning.protocol import Base

METRICS = {
    "base": {"eval_loss": 2.5, "perplexity": 12.18, "exact_match": 0.0, "rouge_l": 0.11, "bleu": 1.5},
    "tuned": {"eval_loss": 0.25, "perplexity": 1.284, "exact_match": 0.95, "rouge_l": 0.99, "bleu": 97.5},
}
HUB = Base(
    source="acme/tiny",
    kind="hub",
    name="acme/tiny",
    revision="c0ffee",
    parameters=1,
    context_tokens=8,
    model_type="llama",
)
SMOLLM = {"kind": "catalogue", "name": "smollm2-135m-instruct", "revision": "sha256:b1"}


def card(base=HUB, **changes):
    record = {
        "base": base.model_dump(mode="json"),
        "spec": {"dataset": "tickets.jsonl", "suffix": "tickets"},
        "resolved": {"rank": 16, "alpha": 32.0, "quantization": "nf4", "learning_rate": 0.001},
        "data": {"dataset_sha256": "ab" * 32, "train_rows": 240, "eval_rows": {"eval": 48}, "template": "own"},
        "metrics": {**METRICS, "sets": {"eval": {"rows": 48, "answered": 48, **METRICS}}},
        "servable": {"vllm": True, "reason": "rank 16 fits", "max_lora_rank": 16},
        "facts": {"job": "j-1", "cost": 0.012345678, "train_s": 99.5, "checks": [{"name": "loss", "ok": True}]},
        **changes,
    }
    return model_card(record)


def test_the_card_is_the_hubs_format_and_compares_base_with_tuned():
    _, head, text = card().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "peft", "celora"],
        "base_model": "acme/tiny", "base_model_relation": "adapter",
        "metrics": ["bleu", "eval_loss", "exact_match", "perplexity", "rouge_l"],
    }  # fmt: skip
    assert "| exact match | 0.000 | 0.950 |" in text
    assert "| eval loss | 2.5000 | 0.2500 |" in text
    for words in (
        "ab" * 32,
        "tickets.jsonl",
        "learning rate: 0.001",
        "cost (US dollars): 0.0123457",
        "train (seconds): 99.5",
        "revision c0ffee",
    ):
        assert words in text
    assert python_snippet(HUB, "PATH/OF/THIS/FOLDER") in text
    assert "vllm serve acme/tiny --revision c0ffee --enable-lora --max-lora-rank 16" in text


def test_the_card_of_an_unmeasured_adapter_says_so():
    assert "Not measured: the job had no held-out rows." in card(metrics={"base": {}, "tuned": {}, "sets": {}})


def test_the_license_is_named_where_it_is_known_and_never_guessed():
    assert "license: apache-2.0" in card(HUB.model_copy(update=SMOLLM))
    assert "license" not in card(HUB.model_copy(update={"kind": "folder", "name": "/models/tiny"}))


def test_figures_of_the_base_in_4_bits_are_said_to_be_so_with_the_lines_that_measure_again():
    resolved = {"rank": 16, "quantization": "nf4", "compute_dtype": "float32"}
    text = card(resolved=resolved)
    assert "figures are of the base in 4 bits (NF4, computed in float32)" in text
    assert "`celora evaluate j-1`" in text
    assert "`celora evaluate j-1 --serving-dtype bf16`" in text
    assert nf4_snippet(HUB, "PATH/OF/THIS/FOLDER", "float32") in text
    for other in (card(resolved={**resolved, "quantization": "none"}), card(metrics={"base": {}, "tuned": {}})):
        assert "4 bits" not in other
    gguf = card(HUB.model_copy(update=SMOLLM), resolved=resolved)
    assert "`celora evaluate j-1`" in gguf
    assert "BitsAndBytesConfig" not in gguf


def test_the_card_says_which_form_the_rows_were_trained_in():
    assert "chat template: the base's own\n" in card()
    assert "chat template: the base's own; rows in TRL's training form" in card(resolved={"template": "training"})


def test_what_vllm_can_not_load_is_said_with_the_reason():
    text = card(servable={"vllm": False, "reason": "it is a DoRA adapter, which vLLM does not load"})
    assert "vLLM can't serve it: it is a DoRA adapter, which vLLM does not load." in text
    assert "vllm serve" not in text


def test_the_card_has_ollamas_lines_with_the_end_token_and_says_that_nobody_tried_them():
    known = {"train_rows": 1, "template": "own", "end_token": '<|"end"|>'}
    text = card(data=known)
    assert "and not tried by celora" in text
    assert 'FROM acme/tiny\nADAPTER PATH/OF/THIS/FOLDER\nPARAMETER stop "<|\\"end\\"|>"' in text
    assert "Ollama" not in card()
    assert "Ollama" not in card(HUB.model_copy(update=SMOLLM), data=known)
