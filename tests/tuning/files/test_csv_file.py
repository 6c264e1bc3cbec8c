import json

import pytest

from celora.tuning.rows.data_file import require_good
from celora.tuning.rows.row_reader import read


@pytest.mark.parametrize(
    ("content", "line", "path", "kind"),
    [
        (b'prompt,completion\n"a, b",""\n', 2, "completion", "empty"),
        (b'prompt,completion\n"a\nb"," "\nc,7\n', 2, "completion", "empty"),
        (b"prompt,completion\na,b\na,b,c\n", 3, None, "bad_csv"),
        (b'prompt,completion\n"a"b,c\n', 2, None, "bad_csv"),
        (b'prompt,completion\n"a,b\n', 2, None, "bad_csv"),
        (b"prompt,prompt\na,b\n", 1, None, "bad_header"),
        (b"messages\n[7\n", 2, "messages", "bad_json"),
        (b"prompt,completion\na,\0\n", 2, None, "nul"),
    ],
)
def test_a_bad_row_is_named_by_its_first_line_and_its_column(write, content, line, path, kind):
    bad = read(write("a.csv", content)).bad.shown[0]
    assert (bad.line, bad.path, bad.kind) == (line, path, kind), bad


def test_a_csv_may_use_semicolons_and_hold_messages_as_json(write):
    messages = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    data = read(write("rows.csv", f'id;messages\n1;"{messages.replace(chr(34), chr(34) * 2)}"\n\n'.encode()))
    require_good(data)
    assert data.rows[0].weights == [0, 1]
    assert "1 blank line was skipped" in data.notes
    assert any("';'" in note for note in data.notes)


@pytest.mark.parametrize(
    ("header", "words", "fix"),
    [
        (b",prompt,completion", "column 1 has no name", "index=False"),
        (b"prompt,completion,", "column 3 has no name", "leave it out"),
        (b"prompt,prompt", "names the column 'prompt' twice", "once"),
    ],
)
def test_a_header_s_fault_is_named(write, header, words, fix):
    (bad,) = read(write("a.csv", header + b"\na,b,c\n")).bad.shown
    assert words in bad.reason
    assert fix in bad.fix


def test_the_delimiter_is_what_cuts_the_header_not_a_mark_inside_a_name(write):
    data = read(write("a.csv", b'"prompt";"completion"\na;b, c\n'))
    assert data.rows[0].messages[1]["content"] == "b, c"
    bad = read(write("b.csv", b'"prompt";"completion, final"\na;b\n')).bad.shown[0]
    assert bad.reason == "the row has no 'completion'"


def test_a_tsv_is_read_by_its_tabs(write):
    assert read(write("a.tsv", b"prompt\tcompletion\na, b\tc\n")).rows[0].messages[0]["content"] == "a, b"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"prompt;completion, final\na;b\nc;d\n", None),
        ("a.tsv", b"prompt, all\tcompletion\na\tb, c\n", None),
        ("a.csv", b"prompt|completion\na, b|c\n", ("a, b", "c")),
        ("a.csv", b'prompt;completion\n"a, b, c";d, e, f\n', ("a, b, c", "d, e, f")),
        ("a.csv", b"\xef\xbb\xbfsep=;\r\nprompt;completion\r\na, b;c\r\n", ("a, b", "c")),
        ("a.csv", b"sep=\t\nprompt\tcompletion\na\tb\n", ("a", "b")),
    ],
)
def test_the_delimiter_is_what_cuts_the_header_and_the_rows_alike(write, name, content, said):
    data = read(write(name, content))
    if said is None:
        assert "the row has no" in data.bad.shown[0].reason, "the columns are apart, and one has another name"
    else:
        assert tuple(message["content"] for message in data.rows[0].messages) == said


@pytest.mark.parametrize(
    ("content", "words", "fix"),
    [
        (b"messages\n\"[{'role': 'user'}]\"\n", "a list as Python shows it, not JSON", "json.dumps"),
        (b"prompt,completion\ra,b\rc,d\r", "lines end in CR alone", "tr"),
    ],
)
def test_what_another_program_wrote_is_named(write, content, words, fix):
    (bad,) = read(write("a.csv", content)).bad.shown
    assert words in bad.reason
    assert fix in bad.fix


def test_the_index_column_of_pandas_is_harmless(write):
    data = read(write("a.csv", b"Unnamed: 0,prompt,completion\n0,a,b\n"))
    assert (data.good, dict(data.unknown_keys)) == (1, {})
