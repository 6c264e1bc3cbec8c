import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from celora.errors import BaseModelError, DataError, DiskFullError, SettingsError
from celora.storage.manifest import verify_manifest
from celora.tuning.batches import prepared_set as prepared_files
from celora.tuning.batches.prepared_set import permutation
from celora.tuning.prepare import tokenize as tokens
from celora.tuning.prepare import worker_pool
from celora.tuning.prepare.prepare import PreparedSet, eval_rows, load_result, load_settings, prepare
from celora.tuning.protocol import PrepareRequest
from celora.tuning.recipe import Recipe
from celora.tuning.rows.data_file import BadRowsError
from celora.tuning.rows.formats import FORMATS

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT = 128


@pytest.fixture(scope="module")
def make_base(tmp_path_factory):
    """A local base: configuration, a byte-level tokenizer, and weights of the right shape (prepare reads no values)."""

    def make(template=None, context=CONTEXT):
        folder = tmp_path_factory.mktemp("base")
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        special = ["<pad>", "</s>", "<|im_start|>", "<|im_end|>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        inner.train_from_iterator(
            [
                "How many apples has row number? It has apples in all. #### Below is an instruction",
                " that describes a task.",
            ],
            trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
        )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", extra_special_tokens=special[2:]
        )
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": context,
            "vocab_size": len(tokenizer),
            "dtype": "float32",
        }
        (folder / "config.json").write_text(json.dumps(config))
        weights = {"model.embed_tokens.weight": np.zeros((len(tokenizer), 16), dtype=np.float32)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture(scope="module")
def plain_base(make_base):
    return make_base()


@pytest.fixture(scope="module")
def chat_base(make_base):
    return make_base(CHATML)


def gsm_rows(count, start=0):
    return [
        {
            "question": f"How many apples has row {n}?",
            "answer": f"It has <<{n}+1={n + 1}>>{n + 1} apples.\n#### {n + 1}",
        }
        for n in range(start, start + count)
    ]


def write_rows(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


class Events(list):
    def __call__(self, event, **fields):
        self.append((event, fields))

    def of(self, name):
        return [fields for event, fields in self if event == name]


@pytest.fixture
def run(tmp_path, plain_base):
    """Prepare some rows; what it told lies in ``run.events``, what it wrote in ``run.out``."""

    def run(
        rows, *, op="prepare", base=plain_base, evals=None, out="prepared", seed=3, eval_fraction=0.1,
        duplicates="drop", too_long="cut", **recipe,
    ):  # fmt: skip
        run.events = Events()
        run.out = tmp_path / out
        request = PrepareRequest(
            op=op,
            job="job",
            attempt=1,
            cache_dir=str(tmp_path / "cache"),
            base_model=str(base),
            dataset=str(write_rows(tmp_path / "train.jsonl", rows)),
            eval_datasets={
                name: str(write_rows(tmp_path / f"{name}.jsonl", held)) for name, held in (evals or {}).items()
            },
            eval_fraction=eval_fraction,
            duplicates=duplicates,
            too_long=too_long,
            recipe=Recipe(**recipe),
            seed=seed,
            out_dir=str(run.out),
        )
        return prepare(request, run.events)

    return run


def words_of(folder, name):
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    rows = PreparedSet.load(folder, name)
    return [tokenizer.decode(rows[index][0]) for index in range(len(rows))]


def test_gsm8k_like_rows_become_tokens_on_disk_as_documented(run):
    result = run(gsm_rows(40))
    assert (result.train_rows, result.eval_rows, result.template) == (36, {"eval": 4}, "alpaca")
    assert result.max_length == CONTEXT
    assert result.base.context_tokens == CONTEXT
    assert result.memory_bytes > 0
    assert sorted(path.name for path in run.out.iterdir()) == [
        "eval.eval.mask.npy",
        "eval.eval.offsets.npy",
        "eval.eval.rows.jsonl",
        "eval.eval.tokens.npy",
        "manifest.json",
        "prepared.json",
        "receipt.json",
        "tokenizer",
        "train.mask.npy",
        "train.offsets.npy",
        "train.tokens.npy",
    ]
    assert verify_manifest(run.out)["kind"] == "prepared"
    tokens, mask, offsets = (np.load(run.out / f"train.{part}.npy") for part in ("tokens", "mask", "offsets"))
    assert (tokens.dtype, mask.dtype, offsets.dtype) == (np.int32, np.uint8, np.int64)
    assert (tokens.ndim, len(tokens), len(mask), len(offsets)) == (1, result.train_tokens, result.train_tokens, 37)
    assert (offsets[0], offsets[-1], int(mask.sum())) == (0, len(tokens), result.trained_tokens)
    assert load_result(run.out) == result
    assert not list(run.out.parent.glob("*.partial"))


def test_the_words_and_the_loss_are_those_of_the_rows(run):
    run(gsm_rows(40))
    tokenizer = AutoTokenizer.from_pretrained(run.out / "tokenizer")
    rows = PreparedSet.load(run.out, "train")
    for index in (0, 17, 35):
        tokens, mask = rows[index]
        assert tokenizer.decode(tokens).startswith("Below is an instruction")
        answer = tokenizer.decode(tokens[mask == 1])
        assert answer.startswith("It has <<")
        assert answer.endswith("</s>")
        assert "It has <<" not in tokenizer.decode(tokens[mask == 0])


def test_prompts_for_generation_end_where_the_last_answer_begins(run, chat_base):
    turns = [("user", "How many?"), ("assistant", "It has 1."), ("user", "And row 2?"), ("assistant", "It has 2.")]
    held = [{"messages": [{"role": role, "content": words} for role, words in turns]}]
    run(gsm_rows(20), base=chat_base, evals={"talk": held})
    (row,) = eval_rows(run.out, "talk")
    tokenizer = AutoTokenizer.from_pretrained(run.out / "tokenizer")
    assert tokenizer.decode(row["prompt_tokens"]) == (
        "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nIt has 1.<|im_end|>\n"
        "<|im_start|>user\nAnd row 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert row["reference"] == "It has 2."
    assert row["prompt"] == "user: How many?\nassistant: It has 1.\nuser: And row 2?"
    tokens, mask = PreparedSet.load(run.out, "talk")[0]
    assert tokens[: len(row["prompt_tokens"])].tolist() == row["prompt_tokens"]
    assert tokenizer.decode(tokens[mask == 1]) == "It has 1.<|im_end|>It has 2.<|im_end|>"
    stops = load_settings(run.out)["stop_tokens"]
    assert tokenizer.convert_ids_to_tokens(stops) == ["</s>", "<|im_end|>"]


def test_a_single_turns_prompt_reads_as_the_question(run):
    run(gsm_rows(20), evals={"eval": gsm_rows(2, start=90)})
    assert [row["prompt"] for row in eval_rows(run.out, "eval")] == [
        "How many apples has row 90?",
        "How many apples has row 91?",
    ]


def test_the_split_depends_on_the_seed_alone(run):
    rows = gsm_rows(50)
    run(rows, seed=5, out="a")
    first = run.out
    run(rows, seed=5, out="b")
    assert words_of(run.out, "eval") == words_of(first, "eval")
    for part in ("train.tokens.npy", "train.mask.npy", "train.offsets.npy", "eval.eval.tokens.npy"):
        assert (run.out / part).read_bytes() == (first / part).read_bytes()
    run(rows, seed=6, out="c")
    assert words_of(run.out, "eval") != words_of(first, "eval")
    assert sorted(words_of(run.out, "eval") + words_of(run.out, "train")) == sorted(
        words_of(first, "eval") + words_of(first, "train")
    )


def test_the_split_keeps_equal_rows_together(run):
    rows = gsm_rows(30) * 2
    result = run(rows, eval_fraction=0.2, duplicates="keep")
    assert (result.train_rows, result.eval_rows) == (48, {"eval": 12})
    assert not set(words_of(run.out, "eval")) & set(words_of(run.out, "train"))


def test_repeated_rows_are_left_out_before_the_split(run):
    result = run([*gsm_rows(30), *gsm_rows(30)], eval_fraction=0.2)
    assert (result.train_rows, result.eval_rows) == (24, {"eval": 6})
    assert words_of(run.out, "train") + words_of(run.out, "eval") != []
    once = run(gsm_rows(30), eval_fraction=0.2, out="once")
    assert (once.train_rows, once.eval_rows) == (24, {"eval": 6})


def test_no_split_where_held_out_rows_are_given_or_not_wanted(run):
    given = run(gsm_rows(20), evals={"near": gsm_rows(3, start=50), "far": gsm_rows(2, start=80)})
    assert (given.train_rows, given.eval_rows) == (20, {"near": 3, "far": 2})
    assert list(given.eval_rows) == ["near", "far"]
    unwanted = run(gsm_rows(20), eval_fraction=0)
    assert (unwanted.train_rows, unwanted.eval_rows) == (20, {})
    assert any("nothing is held out (eval_fraction is 0)" in warning for warning in unwanted.warnings)


def test_one_row_trains_without_a_held_out_set_and_says_so(run):
    result = run(gsm_rows(1))
    assert (result.train_rows, result.eval_rows) == (1, {})
    assert any("only 1 training row;" in warning for warning in result.warnings)
    assert any("nothing is held out" in warning for warning in result.warnings)


def test_long_rows_are_cut_and_rows_without_an_answer_left_are_dropped(run):
    long_answer = {"question": "How many?", "answer": "It has apples in all. " * 40}
    long_question = {"question": "How many apples? " * 40, "answer": "1"}
    result = run([*gsm_rows(20), long_answer, long_question], eval_fraction=0)
    facts = result.receipt["sets"]["train"]
    assert (result.train_rows, facts["truncated"], facts["dropped"], facts["dropped_lines"]) == (21, 2, 1, [22])
    rows = PreparedSet.load(run.out, "train")
    assert rows.lengths.max() == CONTEXT
    assert rows[20][1].any()
    assert any("cut 2 of 22 rows of train to 128 tokens" in warning for warning in result.warnings)
    assert any("dropped 1 row of train" in warning for warning in result.warnings)
    assert [note["message"] for note in run.events.of("note")] == result.warnings


def test_a_set_without_usable_rows_is_refused(run):
    hopeless = [{"question": "How many apples? " * 40, "answer": str(n)} for n in range(3)]
    with pytest.raises(DataError, match=r"no row of the set train \(train.jsonl\) can be used.*128") as caught:
        run(hopeless)
    assert "max_length" in caught.value.hint
    with pytest.raises(DataError, match=r"no row of the set hard \(hard.jsonl\)"):
        run(gsm_rows(20), evals={"hard": hopeless})
    assert not run.out.exists()


def test_a_split_that_has_no_usable_row_is_left_out_with_a_warning(run):
    rows = [*gsm_rows(12), {"question": "How many apples? " * 40, "answer": "1"}]
    unlucky = next(seed for seed in range(100) if permutation(len(rows), seed)[0] == len(rows) - 1)
    result = run(rows, seed=unlucky)
    assert (result.train_rows, result.eval_rows) == (12, {})
    assert any("no row of the set eval" in warning for warning in result.warnings)


def test_overlap_of_training_and_held_out_rows_is_told(run):
    result = run(gsm_rows(20), evals={"eval": gsm_rows(10, start=15)})
    assert any("eval shares 5 of its rows" in warning for warning in result.warnings)


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch(run):
    run(gsm_rows(40))
    rows = PreparedSet.load(run.out, "train")
    first = permutation(len(rows), 7, 0)
    assert sorted(first.tolist()) == list(range(36))
    assert first.tolist() == permutation(len(rows), 7, 0).tolist()
    assert first.tolist() != permutation(len(rows), 7, 1).tolist()
    assert first.tolist() != permutation(len(rows), 8, 0).tolist()


def test_the_permutation_is_pinned_so_that_a_resumed_run_visits_the_same_rows():
    assert permutation(8, 0, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


def test_bad_lines_end_it_before_the_base_is_looked_for(run, tmp_path):
    rows = [*gsm_rows(3), '{"question": "a", "answer": ""}', *gsm_rows(3), "{"]
    with pytest.raises(BadRowsError, match=r"train.jsonl has 2 bad lines of 8: line 4, answer: answer is empty"):
        run(rows, base=tmp_path / "nowhere")
    (note,) = run.events.of("note")
    assert "line 8: the object goes on" in note["message"]
    assert "Fix: " in note["message"]
    assert not run.out.exists()


def test_rows_that_the_template_refuses_are_named_by_line(run, make_base):
    strict = make_base(
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ m['content'] + ('</s>' if m['role'] == 'assistant' else '\n') }}{% endfor %}"
    )
    turns = [("user", "a"), ("user", "b"), ("assistant", "c")]
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}
    bad = {"messages": [{"role": role, "content": words} for role, words in turns]}
    with pytest.raises(BadRowsError, match=r"1 bad line of 3: line 2: .*roles must alternate"):
        run([good, bad, good], base=strict, eval_fraction=0)


def test_settings_that_cannot_be_are_refused(run):
    with pytest.raises(SettingsError, match="max_length 4096 is more than the 128 tokens"):
        run(gsm_rows(20), max_length=4096)
    with pytest.raises(SettingsError, match="'vicuna' is unknown"):
        run(gsm_rows(20), template="vicuna")
    with pytest.raises(SettingsError, match=r"a set named '\.\./x'"):
        prepare(
            PrepareRequest(
                job="j", attempt=1, cache_dir="c", base_model="b", dataset="d", eval_datasets={"../x": "e"},
                recipe=Recipe(), seed=1, out_dir="o",
            ),
            run,
        )  # fmt: skip


def test_an_unknown_base_is_refused_and_leaves_nothing(run, tmp_path):
    with pytest.raises(BaseModelError):
        run(gsm_rows(20), base=tmp_path / "nowhere")
    assert not run.out.exists()


def test_a_full_disk_is_named_and_leaves_nothing(run, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepared_files.SetWriter, "write", full)
    with pytest.raises(DiskFullError, match="no space left for the prepared data"):
        run(gsm_rows(20))
    assert list(run.out.parent.glob("prepared*")) == []


def test_preparing_again_replaces_what_was_there(run):
    run(gsm_rows(20))
    run(gsm_rows(30))
    assert load_result(run.out).train_rows == 27
    verify_manifest(run.out)


def test_the_receipt_tells_it_all_in_json(run):
    result = run([*gsm_rows(40), {"question": "a </s> b", "answer": "It has 1."}], eval_fraction=0)
    receipt = json.loads((run.out / "receipt.json").read_text())
    assert receipt == result.receipt
    (file,) = receipt["files"]
    assert (file["name"], file["format"], file["rows"], file["lines"]) == ("train.jsonl", "question-answer", 41, 41)
    facts = receipt["sets"]["train"]
    spread = facts["tokens_per_row"]
    assert spread["min"] <= spread["p50"] <= spread["p95"] <= spread["max"]
    assert sum(part["rows"] for part in spread["bins"]) == 41
    assert facts["trained_share"] == pytest.approx(result.trained_tokens / result.train_tokens, abs=1e-4)
    assert facts["rows_with_control_words"] == 1
    assert [piece["trained"] for piece in receipt["sample"]] == [False, True]
    assert receipt["sample"][1]["text"] == "It has <<0+1=1>>1 apples.\n#### 1</s>"
    assert any("train has 1 row with a control token" in warning["message"] for warning in receipt["warnings"])


def turns(*said, weights=()):
    """A row of a user's and an assistant's turns; the assistant's may have weights."""
    pairs = zip(("user", "assistant") * len(said), said, strict=False)
    messages = [{"role": role, "content": words} for role, words in pairs]
    for message, weight in zip(messages[1::2], weights, strict=False):
        message["weight"] = weight
    return {"messages": messages}


def test_the_receipt_shows_a_row_of_each_kind_with_what_carries_loss(run, chat_base):
    given = [turns(f"ask {n}?", f"say {n}.") for n in range(30)]
    given[12] = turns("one?", "first.", "two?", "second.", weights=(0, 1))
    given[20]["messages"].insert(0, {"role": "system", "content": "be short"})
    receipt = run(given, base=chat_base, op="check", eval_fraction=0).receipt
    shown = [
        (one["line"], one["kinds"], [part["text"] for part in one["parts"] if part["trained"]])
        for one in receipt["samples"]
    ]
    assert shown == [
        (1, ["one answer"], ["say 0.<|im_end|>"]),
        (13, ["several answers", "an answer of weight 0"], ["second.<|im_end|>"]),
        (21, ["a system text"], ["say 20.<|im_end|>"]),
    ]
    assert receipt["samples"][0]["parts"] == receipt["sample"]


def test_loss_on_all_words_where_it_is_asked_for(run):
    result = run(gsm_rows(20), completion_only=False)
    assert result.trained_tokens == result.train_tokens


def same_receipt(result, other):
    facts, others = ({**one.receipt, "estimate": None} for one in (result, other))
    assert facts == others


@pytest.fixture(params=[(7, 10**6, 0), (1000, 500, 0), (1, 1, 1), (7, 10**6, 1), (7, 900, 3)])
def share_out(request, monkeypatch):
    """Cut the data into pieces of so many rows and bytes; from one process on as large data is."""
    rows, size, processes = request.param

    def share_out():
        monkeypatch.setattr(tokens, "PIECE_ROWS", rows)
        monkeypatch.setattr(tokens, "PIECE_BYTES", size)
        monkeypatch.setattr(worker_pool, "processes", lambda _asked: processes)
        if processes:
            monkeypatch.setattr(tokens, "LEAST_BYTES", 1)

    return share_out


@pytest.mark.parametrize("completion_only", [True, False])
def test_how_rows_are_shared_out_changes_nothing(run, share_out, chat_base, tmp_path, completion_only):
    odd = [
        {"question": "How many apples? " * 40, "answer": "1"},  # cut
        {"question": "How many pears? " * 200, "answer": "none"},  # nothing of the answer is left
        {"question": "Zwölf \u2028 漢字?", "answer": "\n\n ja — é\u0301 \u3000"},
        {"question": "<|im_end|> how", "answer": "so </s>\n"},
        {"question": "How many? ", "answer": "   12"},
        {"question": "mail ada@example.org", "answer": "+49 30 1234567"},
    ]
    data = [*gsm_rows(50), *odd, *gsm_rows(9, start=60), *gsm_rows(3)]
    before = run(data, out="at_once", base=chat_base, completion_only=completion_only)
    at_once = run.out
    shutil.rmtree(tmp_path / "cache")  # or the first run's data is reused
    share_out()
    same_receipt(run(data, out="in_pieces", base=chat_base, completion_only=completion_only), before)
    names = [path.name for path in at_once.iterdir() if path.suffix in (".npy", ".jsonl")]
    assert len(names) == 7
    for name in names:
        assert (run.out / name).read_bytes() == (at_once / name).read_bytes(), name


PAIRS = [
    {"prompt": "Best tea?", "chosen": "Assam, brewed for four minutes.", "rejected": "Any."},
    {"prompt": "Best cake?", "chosen": "Apple. Ask ada@example.org", "rejected": "None."},
    {"prompt": "Best tea?", "chosen": "Any.", "rejected": "Oolong."},
    {"prompt": "best  TEA?", "chosen": "assam, brewed for four minutes.", "rejected": "any."},
    {"prompt": "Longest?", "chosen": "very " * 80, "rejected": "long"},
]
OPENAI_PAIRS = [
    {
        "input": {"messages": [{"role": "user", "content": row["prompt"]}]},
        "preferred_output": [{"role": "assistant", "content": row["chosen"]}],
        "non_preferred_output": [{"role": "assistant", "content": row["rejected"]}],
    }
    for row in PAIRS
]


LABELLED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in PAIRS
    for side in ("chosen", "rejected")
]


@pytest.mark.parametrize("rows", [PAIRS, OPENAI_PAIRS])
def test_a_check_of_preference_rows_finds_what_it_finds_in_others_and_names_the_method(run, chat_base, rows):
    receipt = run(rows, op="check", base=chat_base, evals={"held": rows[1:2]}).receipt
    facts, tokens = receipt["rows"], receipt["sets"]["train"]
    assert facts["duplicates"]["normalised"] == 1
    assert facts["conflicts"] == {"prompts": 1, "rows": 3, "lines": [[1, 3, 4]]}
    assert facts["overlap"]["held"]["exact"] == 1
    assert facts["sensitive"]["train"]["e-mail"] == {"rows": 1, "lines": [2]}
    assert (tokens["rows"], tokens["truncated"], tokens["rows_that_lose_answer"]) == (4, 1, 1)
    assert tokens["tokens_per_row"]["max"] > CONTEXT
    names = [warning["name"] for warning in receipt["warnings"]]
    assert names[:5] == ["duplicates", "conflicts", "sensitive", "overlap", "sensitive"]
    (said,) = [warning["message"] for warning in receipt["warnings"] if warning["name"] == "method"]
    assert "`method: dpo`" in said
    assert receipt["method"] == "dpo"
    wanted, unwanted = receipt["samples"]
    assert (wanted["kinds"], unwanted["kinds"]) == (["one answer", "a wanted answer"], ["an unwanted answer"])
    said = ["".join(part["text"] for part in each["parts"] if part["trained"]) for each in (wanted, unwanted)]
    assert said[0].startswith("Assam, brewed for four minutes.")
    assert said[1].startswith("Any.")
    assert receipt["preferences"]["train"]["pairs"] == 4
    assert not run.out.exists()


def test_a_check_names_the_method_of_labelled_answers(run, chat_base):
    receipt = run(LABELLED, op="check", base=chat_base, eval_fraction=0).receipt
    assert receipt["method"] == "kto"
    assert {name: receipt["preferences"]["train"][name] for name in ("wanted", "unwanted")} == {
        "wanted": 4,
        "unwanted": 4,
    }


SAID, OTHER = [{"role": "assistant", "content": "Four."}], [{"role": "assistant", "content": "Five."}]
ASKED = [{"role": "user", "content": "2+2?"}]
TURNS = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "Four."}]
FORMS = {
    "text": ("dpo", {"prompt": "2+2?", "chosen": "Four.", "rejected": "Five."}),
    "messages": ("dpo", {"prompt": ASKED, "chosen": SAID, "rejected": OTHER}),
    "common beginning": ("dpo", {"chosen": [*ASKED, *SAID], "rejected": [*ASKED, *OTHER]}),
    "openai": ("dpo", {"input": {"messages": ASKED}, "preferred_output": SAID, "non_preferred_output": OTHER}),
    "alpaca": ("dpo", {"instruction": "2+2?", "input": "", "chosen": "Four.", "rejected": "Five."}),
    "sharegpt": (
        "dpo",
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "Four."},
            "rejected": {"from": "gpt", "value": "Five."},
        },
    ),
    "openai, older": (
        "dpo",
        {"input": {"messages": ASKED}, "preferred_completion": SAID, "non_preferred_completion": OTHER},
    ),
    "unpaired": ("kto", {"prompt": ASKED, "completion": SAID, "label": True}),
    "unpaired text, tagged": ("kto", {"prompt": "2+2?", "completion": "Four.", "kto_tag": True}),
    "alpaca, tagged": ("kto", {"instruction": "2+2?", "output": "Four.", "kto_tag": True}),
    "messages, labelled": ("kto", {"messages": [*ASKED, *SAID], "label": True}),
    "messages, tagged": ("kto", {"messages": [*ASKED, *SAID], "kto_tag": True}),
    "sharegpt, labelled": ("kto", {"conversations": TURNS, "label": True}),
    "sharegpt, tagged": ("kto", {"conversations": TURNS, "kto_tag": True}),
}


def test_every_format_of_preferences_has_a_form_here():
    known = {known.required for known in FORMATS if not known.trains}
    assert {max((keys for keys in known if keys <= row.keys()), key=len) for _, row in FORMS.values()} == known


@pytest.mark.parametrize("form", FORMS)
def test_a_check_names_the_method_of_every_form_and_shows_what_carries_loss(run, chat_base, form):
    method, row = FORMS[form]
    unwanted = {name: False for name in row if name in ("label", "kto_tag")}
    rows = [row] if method == "dpo" else [row, {**json.loads(json.dumps(row).replace("Four.", "Five.")), **unwanted}]
    receipt = run(rows, op="check", base=chat_base, eval_fraction=0).receipt
    assert (receipt["ok"], receipt["method"]) == (True, method)
    said = ["".join(part["text"] for part in each["parts"] if part["trained"]) for each in receipt["samples"]]
    assert [words.split("<")[0] for words in said] == ["Four.", "Five."]


@pytest.mark.parametrize(
    ("rows", "method", "said"),
    [
        (PAIRS, "sft", "preference rows, and method sft does not train on those"),
        (LABELLED, "dpo", "unpaired rows, and method dpo does not"),
        (gsm_rows(5), "dpo", "question-answer rows, and method dpo does not"),
        ([row for row in LABELLED if row["label"]], "kto", "have the label true"),
        ([PAIRS[0], {**PAIRS[0], "rejected": PAIRS[0]["chosen"]}], "dpo", "line 2, chosen: .* are the same"),
    ],
)
def test_rows_that_a_method_cannot_train_on_are_refused_before_the_base_is_looked_for(
    run, tmp_path, rows, method, said
):
    with pytest.raises(DataError, match=said):
        run(rows, base=tmp_path / "nowhere", method=method)
    (told,) = run.events.of("receipt")
    assert told["receipt"]["ok"] is False


ANSWERS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS[:3]]


@pytest.mark.parametrize(("rows", "method"), [(PAIRS, "dpo"), (PAIRS, "orpo"), (LABELLED, "kto")])
def test_rows_that_must_pass_may_be_plain_answers_beside_preferences(run, chat_base, rows, method):
    evals = {"held": rows[:2], "must_pass": ANSWERS}
    result = run(rows, base=chat_base, evals=evals, method=method)
    assert result.eval_rows == {"held": 2, "must_pass": 3}
    required = list(eval_rows(run.out, "must_pass"))
    assert [row["reference"] for row in required] == [row["completion"] for row in ANSWERS]
    assert not any("wanted" in row for row in required)
    assert PreparedSet.load(run.out, "must_pass").labels is None
    assert "must_pass" not in result.receipt["preferences"]
    receipt = run(rows, op="check", base=chat_base, evals=evals).receipt
    assert (receipt["ok"], receipt["method"]) == (True, "kto" if method == "kto" else "dpo")


def test_the_rows_whose_loss_is_measured_in_training_are_rows_of_the_method(run, chat_base):
    with pytest.raises(DataError, match="prompt-completion rows, and method dpo does not"):
        run(PAIRS, base=chat_base, evals={"held": ANSWERS}, method="dpo")
    with pytest.raises(DataError, match="preference rows, and method sft does not"):
        run(ANSWERS, base=chat_base, evals={"held": ANSWERS, "must_pass": PAIRS})


def test_both_answers_of_a_pair_share_the_prompt_and_are_cut_alike(run, chat_base):
    result = run(PAIRS, base=chat_base, eval_fraction=0, method="dpo")
    rows = PreparedSet.load(run.out, "train")
    assert (result.train_rows, len(rows), rows.labels.tolist()) == (4, 8, [1, 0] * 4)
    for number in range(0, 8, 2):
        (chosen, mask), (rejected, other) = rows[number], rows[number + 1]
        start = int(mask.argmax())
        assert start == int(other.argmax())
        assert chosen[:start].tolist() == rejected[:start].tolist()
    assert max(rows.lengths) == CONTEXT


def test_a_pair_goes_with_the_answer_that_is_cut_away_whole(run, chat_base):
    long_prompt = {"prompt": "very " * 200, "chosen": "a", "rejected": "b"}
    result = run([*PAIRS[:2], long_prompt], base=chat_base, eval_fraction=0, method="dpo")
    assert result.train_rows == 2
    assert result.receipt["sets"]["train"]["dropped_lines"] == [3]


def test_held_out_pairs_stay_pairs_and_say_which_answer_is_wanted(run, chat_base):
    pairs = [{"prompt": f"Number {n}?", "chosen": f"It is {n}.", "rejected": "No idea."} for n in range(20)]
    result = run(pairs, base=chat_base, eval_fraction=0.2, method="orpo")
    held = list(eval_rows(run.out, "eval"))
    assert (result.train_rows, result.eval_rows) == (16, {"eval": 4})
    assert [row["wanted"] for row in held] == [True, False] * 4
    assert [row["prompt"] for row in held[::2]] == [row["prompt"] for row in held[1::2]]
    assert "experimental" in [warning["name"] for warning in result.receipt["warnings"]]


def test_kto_takes_the_answers_of_pairs_one_by_one(run, chat_base):
    result = run(PAIRS[:3], base=chat_base, eval_fraction=0, method="kto")
    assert result.train_rows == 6
    assert PreparedSet.load(run.out, "train").labels.tolist() == [1, 0] * 3


def test_a_pair_needs_more_memory_and_time_than_an_answer(run, chat_base):
    pairs = [{"prompt": f"Number {n}?", "chosen": f"It is {n}.", "rejected": f"It was {n}."} for n in range(20)]
    answers = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    settings = {"base": chat_base, "eval_fraction": 0, "micro_batch": 2, "gradient_checkpointing": False}
    sft = run(answers, **settings).memory_bytes
    dpo = run(pairs, method="dpo", **settings).memory_bytes
    assert dpo > sft


def test_progress_is_told_in_phases(run):
    run(gsm_rows(20))
    phases = [(fields["phase"], fields["done"], fields["total"]) for fields in run.events.of("phase")]
    size = (run.out.parent / "train.jsonl").stat().st_size
    assert ("read train.jsonl", 0, size) in phases
    assert ("read train.jsonl", size, size) in phases
    assert ("tokenize train", 0, 18) in phases
    assert ("tokenize train", 18, 18) in phases


def test_importing_the_data_modules_loads_no_torch_and_no_transformers():
    code = (
        "import sys, celora.tuning.prepare.prepare; "
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_that_are_too_long_are_left_out_whole_where_that_is_asked(run, chat_base):
    long = {"question": "How many? " * 60, "answer": "many"}
    cut = run([*gsm_rows(9), long], base=chat_base, eval_fraction=0, op="check")
    dropped = run([*gsm_rows(9), long], base=chat_base, eval_fraction=0, op="check", too_long="drop")
    facts = [result.receipt["sets"]["train"] for result in (cut, dropped)]
    assert [(one["truncated"] + one["dropped"], one["too_long"]) for one in facts] == [(2, 0), (0, 1)]
    assert any("left out 1 row of train longer than 128 tokens" in words for words in dropped.warnings)
