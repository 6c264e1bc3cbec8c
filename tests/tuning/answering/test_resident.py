"""The resident model against ``celora generate``: the same words, whatever was answered before."""

import threading
import warnings

import pytest

from celora.errors import StorageError
from celora.storage.manifest import write_manifest
from celora.tuning.answering.messages import AnswerRequest, Done, Refused, Started, Turn, Words
from celora.tuning.answering.resident import ADAPTERS, Resident
from celora.tuning.evaluation.generate import generate
from celora.tuning.protocol import GenerateRequest, HubAccess

HUB = HubAccess(offline=True)
PROMPT = "w5 w6 w7"


class Reader:
    """The client of an answer, which goes away after some parts of it."""

    def __init__(self, parts=10**6):
        self.gone, self.events, self._parts = threading.Event(), [], parts

    def send(self, event):
        self.events.append(event)
        if len(self.words) >= self._parts:
            self.gone.set()

    @property
    def words(self):
        return [event.text for event in self.events if isinstance(event, Words)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def adapters(tiny_base, cache, tmp_path_factory):
    """More committed adapters of random weights than stay loaded."""
    import torch
    from peft import LoraConfig, get_peft_model

    from celora.tuning.bases.base import load_model

    folders = []
    for seed in range(ADAPTERS + 2):
        folder = tmp_path_factory.mktemp(f"adapter-{seed}")
        model, _ = load_model(
            tiny_base,
            cache,
            HUB,
            quantization="none",
            compute_dtype="float32",
            device="cpu",
            emit=lambda *_, **__: None,
        )
        torch.manual_seed(seed)
        config = LoraConfig(r=2 + seed, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
            tuned = get_peft_model(model, config)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=1.0)
        tuned.save_pretrained(str(folder))
        write_manifest(folder)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def expected(tiny_base, cache, adapters):
    """The words of ``celora generate``: of the bare base, and of each adapter."""

    def say(folder):
        request = GenerateRequest(
            job="job", attempt=1, cache_dir=str(cache), hub=HUB, base=tiny_base, quantization="none", prompts=[PROMPT],
            adapter_dir=folder and str(folder), max_new_tokens=12,
        )  # fmt: skip
        return generate(request, lambda *_, **__: None).answers[0]

    return [say(folder) for folder in (None, *adapters)]


@pytest.fixture
def resident(cache):
    return Resident(cache, "cpu")


@pytest.fixture
def ask(resident, tiny_base, adapters):
    """Asks the model of a number: 0 is the bare base, the others are adapters."""

    def send(number=0, reader=None, content=PROMPT, **changes):
        folder = adapters[number - 1] if number else None
        fields = {
            "owner": "a", "tenant": "a", "base": tiny_base, "most_base_bytes": 10**9, "hub": HUB,
            "quantization": "none",
            "adapter": f"job.{number}@3" if number else None, "adapter_dir": folder and str(folder),
            "messages": [Turn(role="user", content=content)], "max_new_tokens": 12, **changes,
        }  # fmt: skip
        reader = reader or Reader()
        resident.answer(AnswerRequest(**fields), reader)
        return reader

    return send


def test_base_and_adapters_in_any_order_say_what_generate_says(ask, expected):
    assert len(set(expected)) > 2
    for number in [0, 1, 2, 0, 1, *range(3, len(expected)), 1, 0]:
        reader = ask(number)
        assert isinstance(reader.events[0], Started)
        done = reader.events[-1]
        assert (done.text, "".join(reader.words)) == (expected[number], expected[number]), number
        assert done.prompt_tokens == reader.events[0].prompt_tokens > 0


def test_no_adapter_of_another_owner_stays(ask, resident, expected):
    ask(1)
    assert ask(0, owner="b", tenant="b").events[-1].text == expected[0]
    assert not [name for name, _ in resident._model.named_modules() if "lora" in name]
    assert ask(2, owner="b").events[-1].text == expected[2]


def test_an_answer_ends_at_a_stop_text_or_at_its_length(ask, expected):
    number = max(range(len(expected)), key=lambda one: len(expected[one]))
    text = expected[number]
    stop = text[len(text) // 2 :][:4]
    done = ask(number, stop=["never", stop]).events[-1]
    assert (done.text, done.finish_reason) == (text[: text.index(stop)], "stop")
    done = ask(number, max_new_tokens=3).events[-1]
    assert (done.finish_reason, done.completion_tokens) == ("length", 3)
    assert text.startswith(done.text)


def test_a_client_that_is_gone_stops_the_model(ask):
    reader = ask(1, Reader(parts=0), max_new_tokens=100)  # it goes away as soon as the prompt is read
    assert isinstance(reader.events[0], Started)
    assert reader.events[-1].completion_tokens == 1


def test_a_seed_repeats_a_sampled_answer(ask):
    heat = {"temperature": 2.0, "max_new_tokens": 30}
    drawn = [ask(1, seed=seed, **heat).events[-1].text for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert (
        ask(1, seed=9, top_p=0.0, **heat).events[-1].text == ask(1, temperature=0.0, max_new_tokens=30).events[-1].text
    )


@pytest.mark.parametrize("count", [128, 10**6])
def test_a_prompt_that_is_longer_than_the_context_is_refused_without_tokenizing_it_all(ask, count, monkeypatch):
    from celora.tuning.answering import resident as module

    lengths, original = [], module.prompt_tokens
    monkeypatch.setattr(module, "prompt_tokens", lambda form, text: lengths.append(len(text)) or original(form, text))
    (refused,) = ask(0, content="w5 " * count).events
    assert (refused.code, refused.facts["context_tokens"]) == ("context_length_exceeded", 128)
    assert "128" in refused.message
    assert max(lengths) <= 128 * module.CHARACTERS_PER_TOKEN


def test_a_base_beyond_the_bound_is_not_loaded(ask, resident):
    (refused,) = ask(0, most_base_bytes=1000).events
    assert (refused.code, resident._model) == ("too_large", None)


def test_an_adapter_that_is_not_its_manifests_is_not_loaded(ask, adapters, tmp_path):
    import shutil

    changed = shutil.copytree(adapters[0], tmp_path / "changed")
    weights = bytearray((changed / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(StorageError, match="another content"):
        ask(1, adapter="changed", adapter_dir=str(changed))
    assert isinstance(ask(1).events[-1], Done)


def test_messages_that_the_template_refuses_are_the_callers_fault(ask, resident):
    ask(0)
    (template,) = resident._templates.values()
    template.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    (refused,) = ask(0).events
    assert isinstance(refused, Refused)
    assert (refused.code, "roles must alternate" in refused.message) == ("bad_prompt", True)
