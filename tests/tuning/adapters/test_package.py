import json
import subprocess
import sys

import pytest

from celora.errors import StorageError
from celora.storage.manifest import verify_manifest
from celora.tuning.adapters.package import assemble
from celora.tuning.protocol import Base

METRICS = {
    "base": {"eval_loss": 2.5, "perplexity": 12.18, "exact_match": 0.0, "rouge_l": 0.11, "bleu": 1.5},
    "tuned": {"eval_loss": 0.25, "perplexity": 1.284, "exact_match": 0.95, "rouge_l": 0.99, "bleu": 97.5},
}
METRICS = {**METRICS, "sets": {"eval": {"rows": 48, "answered": 48, **METRICS}}}
HUB = Base(
    source="acme/tiny",
    kind="hub",
    name="acme/tiny",
    revision="c0ffee",
    parameters=1,
    context_tokens=8,
    model_type="llama",
)
CATALOGUE = HUB.model_copy(
    update={
        "source": "smollm2-135m-instruct",
        "kind": "catalogue",
        "name": "smollm2-135m-instruct",
        "revision": "sha256:b1",
    }
)
FOLDER = HUB.model_copy(
    update={"source": "/models/tiny", "kind": "folder", "name": "/models/tiny", "revision": "sha256:f0"}
)


@pytest.fixture
def folders(tmp_path):
    """An adapter folder and a prepared folder, as far as publishing reads them."""
    adapter, prepared = tmp_path / "adapter", tmp_path / "prepared"
    (prepared / "tokenizer").mkdir(parents=True)
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "training_args.bin").write_bytes(b"never published")
    config = {
        "r": 16,
        "lora_alpha": 32,
        "base_model_name_or_path": "/root/.celora/cache/abc",
        "target_modules": ["q_proj"],
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "chat_template.jinja"):
        (prepared / "tokenizer" / name).write_text(name)
    (prepared / "tokenizer" / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    (prepared / "tokenizer" / "pickled.bin").write_bytes(b"never published")
    facts = {
        "dataset_sha256": "ab" * 32, "train_rows": 240, "eval_rows": {"eval": 48}, "train_tokens": 11800,
        "template": "own",
    }  # fmt: skip
    (prepared / "prepared.json").write_text(json.dumps(facts))
    return adapter, prepared, tmp_path / "published"


def publish(folders, *, base=HUB, **changes):
    arguments = {
        "spec": {"dataset": "/home/ann/secret/tickets.jsonl", "user": "ann", "tenant": "shop", "suffix": "tickets"},
        "resolved": {
            "rank": 16,
            "alpha": 32.0,
            "quantization": "nf4",
            "learning_rate": 0.001,
            "target_modules": "full",
        },
        "metrics": METRICS,
        "servable": {"vllm": True, "reason": "rank 16 fits", "max_lora_rank": 16},
        "facts": {
            "job": "j-1",
            "cost": 0.012345678,
            "train_s": 99.5,
            "gpu": "cpu",
            "checks": [{"name": "loss", "ok": True}],
        },
        **changes,
    }
    assemble(*folders, base=base, **arguments)
    return folders[2]


def test_the_published_folder_holds_what_is_needed_and_nothing_else(folders):
    out = publish(folders)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "celora.json", "chat_template.jinja",
        "manifest.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    verify_manifest(out)
    assert json.loads((out / "celora.json").read_text())["data"]["end_token"] == "<|im_end|>"
    assert out.stat().st_mode == folders[0].stat().st_mode  # as open as any other folder
    assert sorted(path.name for path in out.parent.iterdir()) == ["adapter", "prepared", "published"]


@pytest.mark.parametrize(("base", "revision"), [(HUB, "c0ffee"), (FOLDER, None), (CATALOGUE, None)])
def test_the_configuration_names_the_base_and_never_a_path_of_the_cache(folders, base, revision):
    out = publish(folders, base=base)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (base.name, revision)
    assert config["lora_alpha"] == 32
    assert not any(".celora" in path.read_text() for path in out.iterdir() if path.suffix in (".json", ".md"))


def test_the_facts_for_programs_are_whole_and_name_no_person_and_no_folder(folders):
    out = publish(folders)
    facts = json.loads((out / "celora.json").read_text())
    assert facts["base"] == HUB.model_dump(mode="json")
    assert facts["data"]["dataset_sha256"] == "ab" * 32
    assert facts["metrics"] == METRICS
    assert facts["facts"]["checks"] == [{"name": "loss", "ok": True}]
    assert facts["spec"] == {"dataset": "tickets.jsonl", "tenant": "shop", "suffix": "tickets"}


def test_datasets_that_have_an_address_keep_it(folders):
    spec = {"dataset": "s3://data/train.jsonl", "eval_dataset": {"seen": "./a/seen.jsonl", "hub": "owner/name"}}
    facts = json.loads((publish(folders, spec=spec) / "celora.json").read_text())
    assert facts["spec"]["dataset"] == "s3://data/train.jsonl"
    assert facts["spec"]["eval_dataset"] == {"seen": "seen.jsonl", "hub": "owner/name"}


def test_numbers_that_json_does_not_have_become_null(folders):
    metrics = {"base": {"eval_loss": float("nan")}, "tuned": {"perplexity": float("inf")}, "sets": {}}
    text = (publish(folders, metrics=metrics) / "celora.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"]["tuned"]["perplexity"] is None


def test_publishing_again_replaces_the_folder(folders):
    out = publish(folders)
    (out / "left_over.txt").write_text("x")
    publish(folders)
    assert not (out / "left_over.txt").exists()


@pytest.mark.parametrize(
    "missing", ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "prepared/tokenizer"]
)
def test_a_missing_part_is_named_and_nothing_is_left_behind(folders, missing):
    path = folders[0].parent / missing
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StorageError, match=path.name):
        publish(folders)
    assert not folders[2].exists()
    assert not [each for each in folders[0].parent.iterdir() if each.name.startswith(".")]


def test_publishing_loads_no_torch():
    code = (
        "import sys, celora.tuning.adapters.package, celora.tuning.adapters.card\n"
        "print([name for name in ('torch', 'peft', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
