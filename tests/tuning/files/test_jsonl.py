import json

import pytest

from celora.errors import LimitError
from celora.tuning.files import jsonl
from celora.tuning.files.faults import BadLine
from celora.tuning.files.jsonl import LineFile

LINE = json.dumps({"a": "ä"}).encode()


def test_lines_are_numbered_and_blank_ones_are_counted(write):
    file = LineFile(write("rows.jsonl", b"\xef\xbb\xbf" + LINE + b"\r\n\n" + LINE))
    assert [record.number for record in file] == [1, 3]
    assert (file.lines, file.blank, file.crlf, file.bom) == (3, 1, 1, True)
    assert len(file.notes) == 3


def test_a_bad_line_does_not_end_the_reading(write):
    found = list(LineFile(write("rows.jsonl", LINE + b"\n{\n\xff\n" + LINE)))
    assert [one.kind if isinstance(one, BadLine) else one.number for one in found] == [1, "bad_json", "not_utf8", 4]


def test_a_line_that_is_too_long_is_passed_over(write, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 50)
    found = list(LineFile(write("rows.jsonl", b"x" * 1000 + b"\n" + LINE)))
    assert (found[0].kind, found[0].byte, found[1].number) == ("line_too_long", 51, 2)


def test_a_file_of_blank_lines_is_refused(write, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_BLANK_LINES", 3000)
    with pytest.raises(LimitError, match="more than 3,000 blank lines"):
        list(LineFile(write("rows.jsonl.gz", LINE + b"\n" * 4000)))
