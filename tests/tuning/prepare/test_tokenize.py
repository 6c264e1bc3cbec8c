"""A set of rows becomes tokens on disk, in pieces; bad rows and sets without a usable row are refused."""

from dataclasses import replace

import numpy as np
import pytest
from chat_families import CHATML, byte_level, row
from transformers import PreTrainedTokenizerFast

from celora.errors import DataError
from celora.tuning.files.faults import BadLine, BadLines
from celora.tuning.prepare import tokenize
from celora.tuning.prepare.tokenize import NoUsableRowsError, Tokenization, report_bad
from celora.tuning.rows.data_file import BadRowsError
from celora.tuning.rows.row_reader import read
from celora.tuning.templates.template_choice import choose

REFUSES = "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('it says no') }}{% endif %}{% endfor %}"


@pytest.fixture(scope="module")
def template():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = REFUSES + CHATML
    return choose(tokenizer)


@pytest.fixture
def tokenized(template, tmp_path):
    """Tokenizes rows of question and answer; its events lie in ``tokenized.events``."""

    def run(*pairs, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text('{"prompt": "q", "completion": "a"}\n')
        rows = [
            replace(row(("user", question), ("assistant", answer)), line=line)
            for line, (question, answer) in enumerate(pairs, 1)
        ]
        run.events, run.folder = [], tmp_path / "out"
        run.folder.mkdir(exist_ok=True)
        given = {"folder": run.folder, "max_length": 100, "completion_only": True, **options}
        work = Tokenization(template, given.pop("name", "train"), **given)
        return work.tokenize(rows, read(path), lambda event, **fields: run.events.append((event, fields)))

    return run


@pytest.mark.parametrize(
    ("sizes", "rows", "most", "cuts"),
    [
        ([], 9, 100, []),
        ([500], 9, 100, [(0, 1)]),
        ([10, 10, 10], 9, 100, [(0, 3)]),
        ([10, 10, 10], 2, 100, [(0, 2), (2, 3)]),
        ([60, 60, 60], 9, 120, [(0, 2), (2, 3)]),
        ([60, 60, 60], 9, 119, [(0, 1), (1, 2), (2, 3)]),
        ([10, 500, 10, 10], 9, 100, [(0, 1), (1, 2), (2, 4)]),
        ([0, 0, 0], 2, 1, [(0, 2), (2, 3)]),
    ],
)
def test_pieces_are_limited_in_rows_and_bytes_and_hold_one_row_at_least(monkeypatch, sizes, rows, most, cuts):
    monkeypatch.setattr(tokenize, "PIECE_ROWS", rows)
    monkeypatch.setattr(tokenize, "PIECE_BYTES", most)
    assert list(tokenize._cuts(np.array(sizes, dtype=np.int64))) == cuts


@pytest.mark.parametrize(("most_rows", "processes"), [(1000, 1), (1, 1), (2, 2)])
def test_the_tokens_are_the_same_however_the_rows_are_cut(tokenized, monkeypatch, most_rows, processes):
    pairs = [(f"And {n}?", "Six. " * n) for n in range(1, 6)]
    whole = tokenized(*pairs)
    before = [(tokens.tolist(), mask.tolist()) for tokens, mask in (whole.rows[n] for n in range(5))]
    monkeypatch.setattr(tokenize, "PIECE_ROWS", most_rows)
    monkeypatch.setattr(tokenize, "LEAST_BYTES", 1)
    cut = tokenized(*pairs, processes=processes)
    assert [(tokens.tolist(), mask.tolist()) for tokens, mask in (cut.rows[n] for n in range(5))] == before
    assert cut.facts == whole.facts
    assert (cut.facts.rows, cut.facts.tokens) == (5, sum(len(tokens) for tokens, _ in before))
    assert cut.facts.trained_tokens == sum(map(sum, (mask for _, mask in before)))


def test_progress_ends_with_the_last_row(tokenized):
    tokenized(("Yes?", "No."), ("And three?", "Six."))
    phases = [fields for event, fields in tokenized.events if event == "phase"]
    assert (phases[-1]["phase"], phases[-1]["done"], phases[-1]["total"]) == ("tokenize train", 2, 2)


def test_rows_that_the_template_refuses_are_told_and_end_it(tokenized):
    with pytest.raises(BadRowsError, match="it says no"):
        tokenized(("Yes?", "No."), ("no", "Six."), ("no", "Six."))
    notes = [fields for event, fields in tokenized.events if event == "note"]
    assert "bad lines in rows.jsonl (2 template)" in notes[0]["message"]
    assert "line 2" in notes[0]["message"]


@pytest.mark.parametrize("name", ["train", "hard"])
def test_a_set_that_is_cut_down_to_nothing_is_refused_and_leaves_no_file(tokenized, name):
    with pytest.raises(
        NoUsableRowsError, match=rf"no row of the set {name} \(rows.jsonl\) .* at most 8 tokens"
    ) as told:
        tokenized(("What is two plus two?", "Four."), name=name, max_length=8)
    assert isinstance(told.value, DataError)
    assert "Raise max_length" in told.value.hint
    assert list(tokenized.folder.iterdir()) == []


@pytest.mark.parametrize(("count", "more"), [(0, None), (1, None), (130, "and 30 more")])
def test_bad_lines_are_told_one_by_one_up_to_a_limit(tmp_path, count, more):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q", "completion": "a"}\n')
    data, events = read(tmp_path / "rows.jsonl"), []
    data.bad = BadLines()
    for line in range(count):
        data.bad.add(BadLine(line + 1, None, None, "json", "it is no JSON", "mend it"))
    report_bad(data, lambda event, **fields: events.append(fields["message"]))
    assert len(events) == bool(count)
    if count:
        lines = events[0].splitlines()
        assert lines[0] == f"bad lines in rows.jsonl ({count} json):"
        assert "line 1" in lines[1]
        assert "Fix: mend it." in lines[1]
        assert (more is None) == (len(lines) == count + 1)
        assert more is None or more in lines[-1]
