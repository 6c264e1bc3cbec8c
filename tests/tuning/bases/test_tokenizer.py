import json
import subprocess
import sys

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from celora.errors import BaseModelError
from celora.tuning.bases.base import load_tokenizer
from celora.tuning.bases.tokenizer import CLASSES


@pytest.fixture
def save(tmp_path):
    def make(*special, rows=None, **roles):
        words = [*special, "a", "b", "c"]
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(tmp_path)
        config = {"model_type": "llama", "vocab_size": rows or len(words)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("special", "roles", "pad"),
    [
        (("<pad>", "</s>"), {"pad_token": "<pad>", "eos_token": "</s>"}, "<pad>"),
        (("<|pad|>", "</s>", "<unk>"), {"eos_token": "</s>", "unk_token": "<unk>"}, "<|pad|>"),
        (("</s>", "<|reserved_special_token_3|>"), {"eos_token": "</s>"}, "<|reserved_special_token_3|>"),
        (("</s>", "<unk>"), {"eos_token": "</s>", "unk_token": "<unk>"}, "<unk>"),
        (("<|endoftext|>",), {"eos_token": "<|endoftext|>"}, "<|endoftext|>"),
    ],
)
def test_the_pad_token_is_the_bases_own_else_an_unused_one_else_unknown_else_end(save, special, roles, pad):
    tokenizer = load_tokenizer(save(*special, **roles))
    assert tokenizer.pad_token == pad
    assert len(tokenizer) == len(special) + 3, "no token was added"


def test_a_pad_token_beyond_the_embeddings_is_passed_over(save):
    folder = save("</s>", "<unk>", eos_token="</s>", unk_token="<unk>", pad_token="[NEW]", rows=5)
    assert load_tokenizer(folder).pad_token == "<unk>"


def test_a_tokenizer_that_can_pad_with_nothing_is_refused_with_the_way_out(save):
    with pytest.raises(BaseModelError, match="has no pad token") as refusal:
        load_tokenizer(save())
    assert '"pad_token"' in refusal.value.hint


def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BaseModelError, match=f"the tokenizer in {tmp_path} can't be loaded"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_saved_alone_loads_with_its_template(save):
    folder = save("<pad>", "</s>", pad_token="<pad>", eos_token="</s>")
    (folder / "config.json").unlink()
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a b"}], tokenize=False) == "a b"


CORPUS = ["How many  apples has row number 3? It has apples in all. #### Below is an instruction."] * 3
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TEXTS = ["How many  apples?\n\n It has 3.", "  lead é 漢字 </s> <pad> x", "\n"]


def byte_level():
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=[*ROLES.values()], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    return inner


def sentencepiece_like():
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = [*ROLES.values(), *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    return inner


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A small tokenizer of a family, as transformers saves it, with its chat template and the model's configuration."""

    def family(model_type, named):
        folder = tmp_path_factory.mktemp("family")
        inner = sentencepiece_like() if named in ("LlamaTokenizer", "GemmaTokenizer") else byte_level()
        model = json.loads(inner.to_str())["model"]
        if named == "TokenizersBackend":
            made = transformers.TokenizersBackend(tokenizer_object=inner, **ROLES)
        else:
            made = getattr(transformers, named)(vocab=model["vocab"], merges=[*map(tuple, model["merges"])], **ROLES)
        made.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}"
        made.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": len(made)}))
        return folder

    return family


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("key", CLASSES)
@pytest.mark.parametrize("suffix", ["", "Fast"])
def test_a_familys_tokenizer_is_the_one_that_transformers_would_choose(family, tmp_path, key, suffix):
    folder = family(*key)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    plain = "PreTrainedTokenizer" if suffix and key[1] == "TokenizersBackend" else key[1]
    settings["tokenizer_class"] = plain + suffix
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers, "AutoTokenizer", None)  # the quick way does not even ask
        quick = load_tokenizer(folder)
    assert type(quick).__name__ == CLASSES[key]
    usual = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(quick) is type(usual)
    assert [quick.backend_tokenizer.encode(text).ids for text in TEXTS] == [
        usual.backend_tokenizer.encode(text).ids for text in TEXTS
    ]
    assert quick.special_tokens_map == usual.special_tokens_map
    talk = [{"role": "user", "content": "How many?"}]
    assert quick.apply_chat_template(talk, tokenize=False) == usual.apply_chat_template(talk, tokenize=False)
    assert saved(quick, tmp_path / "quick") == saved(usual, tmp_path / "usual")


def test_a_byte_level_tokenizer_that_calls_itself_llamas_is_left_to_transformers(family):
    folder = family("llama", "TokenizersBackend")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "LlamaTokenizer"}))
    assert type(load_tokenizer(folder)) is transformers.TokenizersBackend


@pytest.mark.slow  # a process of its own, to see what it imports
def test_a_familys_tokenizer_loads_renders_and_encodes_without_torch(family):
    code = (
        "import sys; from pathlib import Path; from celora.tuning.bases.base import load_tokenizer; "
        "from celora.tuning.templates.template_choice import choose; "
        "tokenizer = load_tokenizer(Path(sys.argv[1])); choose(tokenizer); "
        "print([name for name in ('torch', 'datasets') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(family("qwen2", "Qwen2Tokenizer"))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: json.dumps(whole)[:300],
        lambda _: "[]",
        lambda whole: json.dumps(whole | {"model": whole["model"] | {"merges": [["zz", "qq"]]}}),
        lambda whole: json.dumps(whole | {"model": whole["model"] | {"type": "Unheard"}}),
        lambda whole: json.dumps(whole | {"model": whole["model"] | {"continuing_subword_prefix": "####"}}),
        lambda whole: json.dumps(whole | {"model": whole["model"] | {"vocab": {}}}),
        lambda whole: json.dumps(whole | {"added_tokens": [{"id": 1}]}),
        lambda whole: json.dumps({name: part for name, part in whole.items() if name != "model"}),
        lambda whole: json.dumps(whole | {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}}}),
    ],
)
def test_a_damaged_tokenizer_is_one_sentence_whatever_the_library_raises(tmp_path, damage):
    trainer = trainers.BpeTrainer(special_tokens=["</s>"], show_progress=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.train_from_iterator(["the cat the hat"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 99}')
    assert load_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(BaseModelError, match="can't be loaded") as refusal:
        load_tokenizer(tmp_path)
    assert "\n" not in refusal.value.message
