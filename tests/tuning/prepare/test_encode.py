"""A piece of rows becomes tokens and masks; rows that are cut, dropped or left without an answer are counted."""

from dataclasses import replace

import numpy as np
import pytest
from chat_families import CHATML, byte_level, row
from transformers import PreTrainedTokenizerFast

from celora.tuning.prepare import encode
from celora.tuning.prepare.encode import EncodedPiece, Encoder
from celora.tuning.prepare.row_store import stored
from celora.tuning.templates.prompt_border import JOINED
from celora.tuning.templates.template_choice import choose


@pytest.fixture(scope="module")
def template():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHATML
    return choose(tokenizer)


def talk(*turns, line=1):
    return replace(row(*zip(("user", "assistant") * len(turns), turns, strict=False)), line=line)


@pytest.fixture
def encoded(template):
    """Encodes rows in one piece."""

    def encode(*rows, **options):
        store, numbers = stored(rows)
        given = {"max_length": 1000, "completion_only": True, "too_long": "cut", "held_out": False, **options}
        return Encoder(template, store, numbers, **given).piece((0, len(rows)))

    return encode


def lengths(piece):
    return piece.arrays[2].tolist()


def test_ranges_become_a_mask_and_end_with_the_row():
    piece = EncodedPiece()
    piece.add([5, 6, 7], [(1, 9)])
    piece.add([], [])
    piece.add([8, 9], [(0, 1)])
    tokens, mask, rows = piece.arrays
    assert (tokens.tolist(), mask.tolist(), rows.tolist()) == ([5, 6, 7, 8, 9], [0, 1, 1, 1, 0], [3, 0, 2])
    assert (tokens.dtype, mask.dtype, rows.dtype) == (np.int32, np.uint8, np.int64)


def test_rows_follow_one_another_as_the_template_writes_them(encoded, template):
    piece = encoded(talk("Yes?", "No."), talk("And three?", "Six."))
    tokens, mask, _ = piece.arrays
    text = template.tokenizer.decode(tokens.tolist())
    assert text.count("<|im_start|>assistant") == 2
    assert len(tokens) == len(mask) == sum(lengths(piece)) == sum(piece.facts.lengths)
    assert template.tokenizer.decode(tokens[mask == 1].tolist()) == "No.<|im_end|>Six.<|im_end|>"
    assert piece.prompts == []


def test_a_row_that_is_too_long_is_cut_and_its_loss_counted(encoded):
    whole = encoded(talk("Yes?", "It is four, I think."))
    length = lengths(whole)[0]
    cut = encoded(talk("Yes?", "It is four, I think."), max_length=length - 3)
    assert lengths(cut) == [length - 3]
    facts = cut.facts
    assert (facts.truncated, facts.cut_tokens, facts.cut_answers, facts.dropped) == (1, 3, 1, 0)
    assert facts.cut_trained_tokens == int(whole.arrays[1].sum()) - int(cut.arrays[1].sum())
    assert list(facts.lengths) == [length], "lengths are before the cut"


def test_a_row_without_an_answer_left_is_dropped_with_its_line(encoded):
    piece = encoded(talk("What is two plus two? " * 9, "Four.", line=17), max_length=20)
    assert (lengths(piece), piece.facts.dropped, piece.facts.dropped_lines) == ([], 1, [17])


def test_a_long_row_is_left_out_whole_where_that_is_asked(encoded):
    piece = encoded(talk("Yes?", "No."), talk("Yes?", "It is four. " * 99), max_length=60, too_long="drop")
    assert (len(lengths(piece)), piece.facts.too_long, piece.facts.truncated) == (1, 1, 0)
    assert len(piece.facts.lengths) == 2


def test_of_many_dropped_rows_the_first_lines_are_kept(encoded, monkeypatch):
    monkeypatch.setattr(encode, "KEPT_LINES", 2)
    piece = encoded(*(talk("Yes? " * 40, "No.", line=line) for line in (3, 4, 5)), max_length=10)
    assert (piece.facts.dropped, piece.facts.dropped_lines) == (3, [3, 4])


def test_a_held_out_row_whose_prompt_fills_the_length_is_dropped(encoded):
    held = [talk("Yes?", "No.", "And three?", "Six.")]
    first_turn = lengths(encoded(talk("Yes?", "No.")))[0]
    assert encoded(*held, held_out=True).facts.dropped == 0
    piece = encoded(*held, held_out=True, max_length=first_turn)
    assert (piece.facts.dropped, piece.prompts) == (1, [])
    assert encoded(*held, max_length=first_turn).facts.dropped == 0, "in training its first answer counts"


def test_the_border_of_prompt_and_answer_is_judged_in_every_row(encoded, template):
    rows = [talk("Yes?", "No."), talk("Yes?", "\nNo."), talk("Yes?", "\nNo.", "And three?", "Six.")]
    facts = encoded(*rows).facts
    assert (facts.boundary_checked, facts.boundary_apart, facts.boundary_merged) == (3, 1, 0)
    assert list(facts.lost_turns) == [JOINED]
    held = encoded(*rows, held_out=True)
    assert (held.facts.boundary_checked, held.facts.boundary_apart, len(held.prompts)) == (3, 1, 3)
    everything = encoded(*rows, held_out=True, completion_only=False)
    told = everything.facts
    assert (told.boundary_checked, told.boundary_apart, told.boundary_merged) == (3, 1, 0)


def test_each_answer_may_become_a_row(encoded, template):
    def trained(piece):
        tokens, mask, _ = piece.arrays
        return template.tokenizer.decode(tokens[mask == 1].tolist())

    example = talk("Yes?", "No.", "And three?", "Six.")
    whole, last, each = (encoded(example, turns=turns) for turns in ("whole", "last", "each"))
    assert [len(lengths(piece)) for piece in (whole, last, each)] == [1, 1, 2]
    assert trained(whole) == trained(each) == "No.<|im_end|>Six.<|im_end|>"
    assert trained(last) == "Six.<|im_end|>"


def test_a_piece_that_is_too_large_for_a_forked_copy_is_not_made(template, monkeypatch):
    rows = [talk("Yes?", "No.")]
    store, numbers = stored(rows)
    encoder = Encoder(template, store, numbers, max_length=99, completion_only=True, too_long="cut", held_out=False)
    assert encoder.short_piece((0, 1)) is not None
    monkeypatch.setattr(encode, "LONG_BYTES", 10)
    assert encoder.short_piece((0, 1)) is None
