"""A dataset of a command is a file here, an address, or a name of the record."""

import pytest

from celora.cli.rows_here import check_rows, is_file
from celora.errors import DataError


@pytest.mark.parametrize(
    ("source", "here"),
    [("train.jsonl", True), ("missing.csv", True), ("rows.jsonl.gz", True), ("./a/b", True), ("faq", False),
     ("faq@3", False), ("https://example.com/train.jsonl", False)],
)  # fmt: skip
def test_a_name_without_a_suffix_is_one_of_the_record(source, here):
    assert is_file(source) is here


def test_an_existing_file_needs_no_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faq").write_text("{}")
    assert is_file("faq")


PAIR = '{"prompt": "q", "chosen": "good", "rejected": "bad"}\n'
LABEL = '{"prompt": "q", "completion": "a", "label": true}\n'
ROW = '{"prompt": "q", "completion": "a"}\n'


@pytest.mark.parametrize(
    ("rows", "job"),
    [(PAIR, {"method": "dpo"}), (PAIR, {"method": "orpo"}), (LABEL, {"method": "kto"}), (ROW, {}), (PAIR, None),
     (PAIR.replace("chosen", "better"), {"method": "dpo", "columns": {"chosen": "better"}})],
)  # fmt: skip
def test_rows_of_the_jobs_method_are_taken(tmp_path, rows, job):
    (tmp_path / "rows.jsonl").write_text(rows)
    check_rows(tmp_path / "rows.jsonl", job)


@pytest.mark.parametrize(("rows", "job"), [(PAIR, {}), (ROW, {"method": "dpo"}), (LABEL, {"method": "dpo"})])
def test_rows_of_another_method_are_refused(tmp_path, rows, job):
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(DataError, match=f"method {job.get('method', 'sft')} does not train on those"):
        check_rows(tmp_path / "rows.jsonl", job)


def test_bad_rows_and_a_missing_file_are_refused(tmp_path, rows):
    check_rows(rows)
    (tmp_path / "bad.jsonl").write_text("no json\n")
    for name, words in (("bad.jsonl", "bad.jsonl"), ("missing.jsonl", "no file here")):
        with pytest.raises(DataError, match=words):
            check_rows(tmp_path / name)
