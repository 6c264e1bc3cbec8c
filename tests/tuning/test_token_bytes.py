import random

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from celora.tuning.masks import Span, trained_ranges
from celora.tuning.token_bytes import TokenBytes

WORDS = [
    "How", " many", " apples", "\n", "\n\n", "  ", " é", "漢字", " \u3000", "\u2028", "x", ".", " 12", "\t", "e\u0301",
    "🙂", " the", "ing", "\x1c", "\u00a0",
]  # fmt: skip
SPECIAL = ["</s>", "<|im_start|>", "<|im_end|>"]


def trained(*, normalizer=None, trim=True, added=()):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=trim)
    if normalizer:
        inner.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["How many apples are in the basket? ", "\n\n  12 the ing 漢字 é"] * 20
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    inner.add_tokens(list(added))
    return inner


def rows(count, seed=1):
    """Texts with spans as chat templates make them, odd ones too: row, and its spans in characters."""
    rng = random.Random(seed)  # noqa: S311  (dice with a seed)

    def said():
        return "".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 8)))

    for _ in range(count):
        text, spans = "", []
        usual = rng.random() < 0.5
        for turn in range(1 if usual else rng.randrange(1, 4)):
            text += "<|im_start|>user\n" if usual else rng.choice(["[user] ", "user:"])
            text += said() + ("<|im_end|>\n" if usual else rng.choice(["<|im_end|>\n", "\n", " "]))
            text += "<|im_start|>assistant\n" if usual else rng.choice(["[assistant] ", "assistant:"])
            first = len(text)
            text += said()
            text += "<|im_end|>\n" if usual else rng.choice(["</s>", "\n", " ", "<|im_end|>", "", " </s> \n"])
            spans.append((first, len(text)))
            if turn and rng.random() < 0.1:
                text += said()
        yield text, spans


def compared(inner, count=2000):
    """How many of some rows the bytes told, each as the offsets do."""
    special = frozenset(map(inner.token_to_id, SPECIAL))
    table = TokenBytes.of(inner, special)
    texts, spans = map(list, zip(*rows(count), strict=True))
    ids = [encoding.ids for encoding in inner.encode_batch_fast(texts, add_special_tokens=False)]
    in_bytes = [
        (row, len(texts[row][:start].encode()), len(texts[row][:end].encode()))
        for row, some in enumerate(spans)
        for start, end in some
    ]
    counts = np.array([len(one) for one in ids])
    flat = np.array([token for one in ids for token in one], dtype=np.int32)
    found, held = table.ranges(flat, counts, texts, np.array(in_bytes))
    for row, encoding in enumerate(inner.encode_batch(texts, add_special_tokens=False)):
        assert encoding.ids == ids[row]
        if held[row]:
            mine = [(int(found.firsts[at]), int(found.ends[at])) for at in np.flatnonzero(found.rows == row)]
            asked = [Span(start, end) for start, end in spans[row]]
            theirs = trained_ranges(encoding, encoding.ids, texts[row], asked, special=special, end_token=2)
            assert mine == theirs, texts[row]
    return held.mean()


@pytest.mark.parametrize("trim", [True, False])
def test_the_bytes_of_tokens_tell_what_their_offsets_do(trim):
    assert compared(trained(trim=trim)) > 0.2


@pytest.mark.parametrize("normalizer", [normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
def test_a_row_that_a_normalizer_changes_is_left_to_the_offsets(normalizer):
    share = compared(trained(normalizer=normalizer))
    assert share < compared(trained())


def test_a_row_in_which_an_added_token_swallows_a_space_is_left_to_the_offsets():
    inner = trained(added=[AddedToken("apples", lstrip=True, normalized=False)])
    text = "How many apples<|im_end|>"
    table = TokenBytes.of(inner, frozenset(map(inner.token_to_id, SPECIAL)))
    encoding = inner.encode(text, add_special_tokens=False)
    assert " many apples" not in "".join(encoding.tokens)
    _, held = table.ranges(
        np.array(encoding.ids, dtype=np.int32), np.array([len(encoding.ids)]), [text], np.array([[0, 0, len(text)]])
    )
    assert not held.any()
    assert compared(inner) > 0.1  # (of the rows without that word)


def test_usual_rows_are_all_told_by_their_bytes():
    inner = trained()
    text = "<|im_start|>user\nHow many é apples?<|im_end|>\n<|im_start|>assistant\n12 漢字<|im_end|>\n"
    start = len(text[: text.index("12")].encode())
    encoding = inner.encode(text, add_special_tokens=False)
    table = TokenBytes.of(inner, frozenset(map(inner.token_to_id, SPECIAL)))
    ids, counts = np.array(encoding.ids * 3, dtype=np.int32), np.array([len(encoding.ids)] * 3)
    found, held = table.ranges(
        ids, counts, [text] * 3, np.array([[row, start, len(text.encode())] for row in range(3)])
    )
    assert held.all()
    assert {
        inner.decode(encoding.ids[first:end], skip_special_tokens=False)
        for first, end in zip(found.firsts, found.ends, strict=True)
    } == {"12 漢字<|im_end|>"}


def test_a_vocabulary_of_another_alphabet_has_no_table():
    inner = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    assert TokenBytes.of(inner, frozenset()) is None
