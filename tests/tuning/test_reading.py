import dataclasses
import gzip
import json
import random

import pytest

from celora.settings.errors import LimitError
from celora.tuning import forks, lines, reading
from celora.tuning.findings import repeats


def chat(number, **more):
    turns = [{"role": "user", "content": f"q{number} ada@example.org" if number % 7 == 0 else f"q{number}"}]
    return {"messages": [*turns, {"role": "assistant", "content": f"Ünd a{number % 50} : {{}}"}], **more}


def pair(number):
    return {"question": f"q{number}", "answer": f"a{number}"}


GOOD = [json.dumps(chat(number)) for number in range(400)]
ODD = [
    "",
    "   ",
    json.dumps(chat(7)) + "\r",
    json.dumps(chat(8), ensure_ascii=False),
    json.dumps(chat(9), separators=(" , ", " : ")),
    json.dumps(chat(10, tools=[{"type": "function", "function": {"name": "look"}}])),
    json.dumps(chat(11, note="x")),
    json.dumps({"messages": [{"content": "hi", "role": "user"}, {"role": "assistant", "content": 'say "x": 1'}]}),
    json.dumps({"messages": [{"role": "system", "content": ""}, *chat(12)["messages"]]}),
    json.dumps({"messages": [*chat(13)["messages"], *chat(14)["messages"]]}),
    "x" * 5000,
]
BAD = [
    '{"messages": [{"role": "user", "role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "role" : "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "content": "c\\": d"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": NaN}]}',
    '{"messages": [{"role": "user", "content": "a\\u0000"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a\\ud800"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a\0"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]} {}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}',
    '{"messages": [{"role": "user", "content": "a"}]}',
    '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 2}]}',
    '{"messages": ' + "[" * 100 + "]" * 100 + "}",
    json.dumps(pair(1)),
    "[1]",
    "{",
]  # fmt: skip


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read lines with and without copies, in small blocks; what both found is the same, and is returned."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(reading, "LEAST_BYTES", 1)
    shared, vouched = forks.shared_out, []

    def counting(*arguments):
        for piece, part in shared(*arguments):
            vouched.append(part is not None)
            yield piece, part

    monkeypatch.setattr(forks, "shared_out", counting)

    def outcome(path, processes):
        data, notes = reading.read(path, {}, tmp_path, lambda *_, **__: None, processes=processes)
        facts = {each.name: getattr(data, each.name) for each in dataclasses.fields(data)}
        return facts | {"rows": list(data.rows), "pairs": list(data.pairs)}, notes

    def read_both(written, name="rows.jsonl"):
        path = tmp_path / name
        data = ("\n".join(written)).encode() if not isinstance(written, bytes) else written
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        alone, together = outcome(path, 1), outcome(path, 2)
        assert together == alone
        return alone

    read_both.vouched = vouched
    return read_both


def test_good_rows_are_read_by_copies_with_the_same_outcome(read):
    facts, notes = read([*GOOD, ""])
    assert (facts["good"], facts["lines"], len(notes)) == (400, 400, 400)
    assert notes.sensitive == {"e-mail": 58}
    assert len(read.vouched) > 10
    assert all(read.vouched)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_stands_between_good_rows_the_outcome_is_the_same(read, seed):
    rng = random.Random(seed)  # noqa: S311  (dice with a seed)
    written = list(GOOD)
    for one in rng.sample([*ODD, *BAD], rng.randrange(1, 12)):
        written.insert(rng.randrange(20, len(written)), one)
    read(written)


@pytest.mark.parametrize("one", [*ODD, *BAD])
def test_one_odd_line_has_the_same_outcome(read, one):
    facts, _ = read([*GOOD[:300], one, *GOOD[300:], ""])
    assert bool(facts["bad"].total) == (one in BAD or one.startswith("x"))


@pytest.mark.parametrize("first", [*ODD, *BAD])
def test_an_odd_first_line_has_the_same_outcome(read, first):
    read([first, *GOOD[:100]])


def test_a_file_that_is_mostly_of_another_format_than_its_first_row(read):
    facts, _ = read([GOOD[0], *(json.dumps(pair(number)) for number in range(300))])
    assert facts["bad"].total == 1


def test_other_formats_are_read_by_copies_too(read):
    facts, notes = read([json.dumps(pair(number)) for number in range(400)])
    assert (facts["format"], len(notes)) == ("question-answer", 400)
    assert all(read.vouched)


def test_preference_rows_are_read_here_and_noted_too(read):
    written = [{"prompt": f"q{n} ada@example.org", "chosen": "a", "rejected": f"b{n}"} for n in range(300)]
    facts, notes = read(list(map(json.dumps, [*written, written[0]])))
    assert (len(facts["rows"]), len(facts["pairs"]), len(notes)) == (0, 602, 301)
    assert [row.messages[-1]["content"] for row in facts["pairs"][:4]] == ["a", "b0", "a", "b1"]
    assert notes.sensitive == {"e-mail": 301}
    assert repeats(notes).exact == 1
    assert not any(read.vouched)


def test_a_byte_order_mark_a_gzip_and_no_last_line_feed(read):
    read(b"\xef\xbb\xbf" + "\n".join(GOOD).encode())
    read(GOOD, "rows.jsonl.gz")
    read(b"\xff\xfe" + "\n".join(GOOD).encode())


def test_a_file_of_blank_lines_is_refused_alike(read, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BLANK_LINES", 3000)
    monkeypatch.setattr(lines, "MAX_BLANK_LINES", 3000)
    with pytest.raises(LimitError, match="more than 3,000 blank lines"):
        read([*GOOD, *[""] * 4000])
