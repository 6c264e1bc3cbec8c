import copy
import io

import pytest
from rich.console import Console

from celora.cli.receipt import show

GIB = 2**30
DEVICE = {
    "name": "t4",
    "proven": False,
    "fits": True,
    "memory_bytes": {
        "weights": GIB, "adapter": 0, "optimizer": 0, "activations": 2 * GIB, "logits": 0, "work": 0, "overhead": GIB,
        "total": 4 * GIB, "room": 14 * GIB,
    },
    "micro_batch": 2,
    "accumulation": 4,
    "gradient_checkpointing": False,
    "would_fit_with": None,
    "train_s": 61.0,
    "evaluate_s": 5.0,
    "train_cost": 0.01,
    "evaluate_cost": 0.001,
    "basis": "38% of the data sheet's 65 TFLOP/s",
}  # fmt: skip
RECEIPT = {
    "version": 2,
    "ok": True,
    "base": {"name": "tiny"},
    "template": "own",
    "max_length": 2048,
    "reused": False,
    "files": [
        {
            "set": "train", "name": "train.jsonl", "size_bytes": 2048, "lines": 3, "rows": 3, "format": "chat",
            "rows_by_format": {"chat": 3}, "notes": ["1 blank line was skipped"],
            "bad": {"total": 0, "counts": {}, "lines": []},
        }
    ],
    "rows": {
        "duplicates": {"exact": 1, "normalised": 0, "near": 0, "dropped": 1, "lines": [{"line": 3, "repeats": 1}]},
        "conflicts": {"prompts": 1, "rows": 2, "lines": [[1, 2]]},
        "overlap": {"eval": {"exact": 1, "normalised": 2, "prompts": 3, "lines": [1]}},
        "sensitive": {"train": {"e-mail": {"rows": 7, "lines": [1, 2, 3, 4, 5, 6, 7]}}},
        "labels": {
            "distinct": 2, "most": {"label": "spam", "rows": 9, "share": 0.9}, "fewest": {"label": "ham", "rows": 1},
            "one_sided": True,
        },
        "task": {"kind": "classification", "rows": 10, "rows_wanted": 100, "enough": False, "advice": "50 a label"},
    },
    "sets": {
        "train": {
            "rows": 2, "tokens": 100, "trained_tokens": 40, "trained_share": 0.4,
            "tokens_per_row": {"min": 40, "p50": 50, "p95": 60, "max": 60, "bins": [{"up_to": 64, "rows": 2}]},
            "truncated": 1, "cut_tokens": 30, "rows_that_lose_answer": 1, "cut_trained_tokens": 20,
            "dropped": 1, "dropped_lines": [2],
        }
    },
    "estimate": {
        "epoch": {
            "examples": 2, "sequences": 2, "tokens": 100, "trained_tokens": 40, "useful": 0.8, "effective_batch": 2,
            "steps": 1, "epochs": 3, "planned_steps": 3,
        },
        "packing": {"on": False, "sequences": 1, "full": 0.05},
        "activations": [],
        "devices": [
            DEVICE,
            {
                **DEVICE, "name": "l4", "fits": False,
                "would_fit_with": {"gradient_checkpointing": True, "max_length": 512, "rows_cut": 1},
            },
            {**DEVICE, "name": "a10g", "fits": False},
        ],
    },
    "sample": [{"text": "user: hi\n", "trained": False}, {"text": "hello\x1b[31m", "trained": True}],
    "warnings": [{"name": "duplicates", "message": "1 row of train repeats another one"}],
}  # fmt: skip


def shown(receipt, *, terminal=False):
    out = Console(file=io.StringIO(), force_terminal=terminal, width=160, highlight=False)
    show(receipt, out)
    return out.file.getvalue()


@pytest.mark.parametrize(
    "words",
    [
        "tiny, its own chat template, rows of at most 2,048 tokens",
        "train.jsonl (train): 3 rows in 3 lines, 2.0 KiB",
        "note: 1 blank line was skipped",
        "repeated rows: 1 exact; 1 left out (line 3 is 1 again)",
        "same prompt, different answers: 1 prompt in 2 rows (lines 1, 2)",
        "rows of eval that training sees too: 1 exact, 2 normalised; 3 more share the prompt",
        "likely e-mail in 7 rows of train (line 1, 2, 3, 4, 5, …)",
        "answers are 2 labels: 'spam' in 9 rows (90%), the rarest 'ham' in 1",
        "kind of task: classification, 10 rows: few",
        "tokens a row: min 40, p50 50, p95 60, max 60",
        "too long: 1 row cut, 30 tokens lost; 1 of them lose 20 tokens of answers",
        "nothing to learn is left of 1 row (line 2): left out",
        "an epoch: 2 examples, 100 tokens (40 trained on), 1 step of 2 rows; 3 epochs are 3 steps",
        "packed (packing is off) it would be 1 sequence, 5.0% full",
        "t4 *    yes   4.0  14.0  1.00",
        "l4: would fit with gradient_checkpointing true, max_length 512, which cuts 1 row",
        "a10g: too small for this base at any length",
        "⟦hello␛[31m⟧",
        "warning duplicates: 1 row of train repeats another one",
    ],
)
def test_everything_a_receipt_says_is_shown(words):
    assert words in shown(RECEIPT)


def test_on_a_terminal_the_trained_words_are_in_colour_and_data_moves_no_cursor():
    text = shown(RECEIPT, terminal=True)
    assert "⟦" not in text
    assert "\x1b[1;32mhello␛[31m" in text


def test_time_and_money_are_not_told_where_it_does_not_fit():
    line = next(line for line in shown(RECEIPT).splitlines() if line.startswith("l4 *"))
    assert line.split()[-3:] == ["-", "-", "-"]
    line = next(line for line in shown(RECEIPT).splitlines() if line.startswith("t4 *"))
    assert line.endswith(("1 min 01 s  5 s       $0.0110 ", "1 min 01 s  5 s       $0.0110"))


def test_bad_lines_are_a_table_of_every_kind_with_the_first_of_each():
    receipt = {name: copy.deepcopy(RECEIPT[name]) for name in ("version", "files", "warnings")} | {"ok": False}
    lines = [
        {
            "line": number,
            "path": "answer",
            "byte": None,
            "kind": "empty",
            "reason": "answer is empty",
            "fix": "write it",
        }
        for number in range(1, 31)
    ]
    byte = {"line": 40, "path": None, "byte": 3, "kind": "not_utf8", "reason": "no UTF-8", "fix": "save as UTF-8"}
    receipt["files"][0]["bad"] = {"total": 131, "counts": {"empty": 130, "not_utf8": 1}, "lines": [*lines, byte]}
    text = shown(receipt | {"rows": None})
    assert "131 bad lines: 130 empty, 1 not_utf8" in text
    assert text.count("answer is empty") == 5
    assert "and 125 more" in text
    assert [line.split()[:4] for line in text.splitlines() if "UTF-8" in line] == [["40", "byte", "3", "not_utf8"]]
    assert "an epoch" not in text


def test_a_refused_file_names_its_repeats_and_does_not_count_what_is_left_out():
    kept = {name: RECEIPT[name] for name in ("version", "files", "rows", "warnings")}
    assert "repeated rows: 1 exact (line 3 is 1 again)\n" in shown({**kept, "ok": False})


def test_a_receipt_shows_a_row_of_each_kind():
    parts = [{"text": "user: hi\n", "trained": False}, {"text": "hello", "trained": True}]
    samples = [
        {"line": 1, "kinds": ["one answer"], "parts": parts},
        {"line": 9, "kinds": ["a tool call", "a thought"], "parts": [{"text": "\x1b[2J", "trained": True}]},
    ]
    text = shown({**RECEIPT, "samples": samples})
    assert "a training row of each kind, what is trained on between ⟦ and ⟧:\nline 1: one answer\n" in text
    assert "line 9: a tool call, a thought\n⟦␛[2J⟧" in text
    one = shown({**RECEIPT, "samples": samples[:1]})
    assert "a training row, what is trained on" in one
    assert "line 1:" not in one
