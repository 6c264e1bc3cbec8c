from pathlib import Path

import numpy as np
import pytest

from celora.tuning.files.faults import BadLine
from celora.tuning.prepare.findings import Notes
from celora.tuning.prepare.receipt import (
    SetFacts,
    Survey,
    file_facts,
    refused,
    row_warnings,
    set_facts,
    set_warnings,
    token_histogram,
)
from celora.tuning.prepare.samples import sample_pieces
from celora.tuning.rows.data_file import DataFile
from celora.tuning.rows.row import Row
from celora.tuning.templates.loss_masks import Encoded


def take_notes(rows):
    notes = Notes()
    for row in rows:
        notes.add(row)
    return notes


def rows(*pairs):
    return [
        Row([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], [0, 1], line)
        for line, (prompt, answer) in enumerate(pairs, 1)
    ]


def survey(*pairs, held_out=None, drop=True):
    notes = {"train": take_notes(rows(*pairs))}
    if held_out:
        notes["eval"] = take_notes(rows(*held_out))
    return Survey.of(notes, drop=drop)


def named(warnings):
    return {warning.name: warning.message for warning in warnings}


def test_repeated_rows_are_left_out_or_kept_as_asked():
    given = (("a", "1"), ("a", "1"), ("b", "2"), ("A", "1"))
    assert survey(*given).kept.tolist() == [True, False, True, False]
    assert survey(*given, drop=False).kept.tolist() == [True] * 4
    dropped, kept = (named(row_warnings(survey(*given, drop=drop)))["duplicates"] for drop in (True, False))
    assert dropped == "2 rows of train repeat another one (1 exactly, 1 but for case and white space): left out"
    assert kept.endswith("kept, as asked")


@pytest.mark.parametrize(
    ("name", "given", "held_out", "words"),
    [
        ("conflicts", [("a", "1"), ("a", "2")], None, "1 prompt is answered in different ways (lines 1, 2, for"),
        ("overlap", [("a", "1")], [("A", "1"), ("b", "1")], "eval shares 1 of its rows with the training rows"),
        ("prompt_overlap", [("a", "1")], [("a", "2")], "eval asks 1 times what training rows ask too"),
        ("sensitive", [("a", "ada@example.org")], None, "e-mail in 1 row; first, line 1"),
        ("one_sided", [(f"q{n}", "yes") for n in range(20)], None, "100% of the answers are 'yes'"),
        ("few_rows", [("a", "1")], None, "only 1 training row; a style or format wants 100 to 500 rows"),
    ],
)
def test_each_finding_is_a_named_warning(name, given, held_out, words):
    assert words in named(row_warnings(survey(*given, held_out=held_out)))[name]


def test_good_rows_raise_no_warning():
    assert named(row_warnings(survey(*((f"question {n}", f"a full answer, {n}") for n in range(100))))) == {}


def test_the_private_data_of_a_row_is_nowhere_in_the_receipt():
    secret = "ada@example.org"
    given = survey((f"I am {secret}", "hello"), *((f"{secret} {n}", secret) for n in range(10)))
    data = DataFile(Path("train.jsonl"), "0" * 64, 10, good=11)
    data.bad.add(BadLine(3, None, None, "unknown_role", f"message 1 has the unknown role '{secret}'", "write it"))
    assert secret not in str(refused({"train": data}, given))
    tokens = Encoded(np.arange(3, dtype=np.int32), np.array([0, 0, 1], dtype=np.uint8))
    assert secret not in str(sample_pieces(tokens, lambda _: f"I am {secret}"))


def test_every_kind_of_bad_line_is_kept_with_its_first_hundred():
    data = DataFile(Path("train.jsonl"), "0" * 64, 10)
    for line in range(1, 251):
        data.bad.add(BadLine(line, "answer", None, "empty", "answer is empty", "write it"))
    data.bad.add(BadLine(300, None, 7, "not_utf8", "the byte 0xff is not UTF-8", "save as UTF-8"))
    bad = file_facts("train", data)["bad"]
    assert (bad["total"], bad["counts"]) == (251, {"empty": 250, "not_utf8": 1})
    assert [line["line"] for line in bad["lines"]] == [*range(1, 101), 300]
    assert bad["lines"][-1] == {
        "line": 300, "path": None, "byte": 7, "kind": "not_utf8", "reason": "the byte 0xff is not UTF-8",
        "fix": "save as UTF-8", "also": 0,
    }  # fmt: skip


def test_a_set_says_what_was_cut_and_what_it_cost():
    facts = SetFacts(rows=2, tokens=200, trained_tokens=50, truncated=2, cut_tokens=70, cut_answers=1)
    facts.lengths, facts.cut_trained_tokens, facts.dropped, facts.dropped_lines = [90, 120, 150], 40, 1, [3]
    told = set_facts(facts)
    assert (told["trained_share"], told["rows_that_lose_answer"], told["cut_trained_tokens"]) == (0.25, 1, 40)
    warnings = named(set_warnings("train", facts, 100))
    assert warnings["truncated"] == (
        "cut 2 of 3 rows of train to 100 tokens: 70 tokens lost (40 of the answers of 1 row); the longest row has 150"
    )
    assert warnings["no_answer_left"] == ("dropped 1 row of train: within 100 tokens nothing of the answer is left")
    assert named(set_warnings("train", SetFacts(lengths=[5]), 100)) == {}


def test_the_histogram_names_ranks_and_powers_of_two():
    found = token_histogram(np.array([3, 16, 17, 40, 1000]))
    assert found == {
        "min": 3,
        "p50": 17,
        "p95": 1000,
        "max": 1000,
        "bins": [
            {"up_to": 16, "rows": 2},
            {"up_to": 32, "rows": 1},
            {"up_to": 64, "rows": 1},
            {"up_to": 1024, "rows": 1},
        ],
    }
    assert token_histogram(np.array([], dtype=np.int64))["bins"] == []
