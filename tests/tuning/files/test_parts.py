import gzip
import json

import pytest

from celora.errors import DataError
from celora.tuning.files import parts
from celora.tuning.files.readers import container, join
from celora.tuning.files.suffixes import dataset_name, is_several
from celora.tuning.rows.row_reader import read


def lines(*numbers):
    return "".join(json.dumps({"prompt": f"{n}?", "completion": str(n)}) + "\n" for n in numbers).encode()


@pytest.fixture
def folder(tmp_path):
    """Writes files below a folder; returns the folder."""

    def write(files, name="ds"):
        for path, content in files.items():
            place = tmp_path / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(gzip.compress(content) if path.endswith(".gz") else content)
        return tmp_path / name

    return write


CARD = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: kept/*.jsonl\n---\n"


@pytest.mark.parametrize(
    ("names", "held_out", "found"),
    [
        (["in/train-0.csv", "in/train-1.csv", "in/test-0.csv"], False, ["in/train-0.csv", "in/train-1.csv"]),
        (["data/train-0.jsonl", "data/test-0.jsonl"], True, ["data/test-0.jsonl"]),
        (["train.csv", "validation.csv"], True, ["validation.csv"]),
        (["b.csv.gz", "a.jsonl", "run.py", ".git/x.csv", ".a.csv", "_SUCCESS"], False, ["a.jsonl", "b.csv.gz"]),
        (["dataset_infos.json", "deep/er/part.ndjson"], False, ["deep/er/part.ndjson"]),
    ],
)  # fmt: skip
def test_a_folder_is_read_as_a_dataset_of_the_hub_is(folder, names, held_out, found):
    root = folder(dict.fromkeys(names, b""))
    assert list(parts.parts_of(str(root), held_out=held_out)) == found


def test_a_card_decides_which_files_of_a_folder_are_read(folder):
    root = folder({"README.md": CARD, "kept/a.jsonl": b"", "train.jsonl": b""})
    assert parts.parts_of(str(root)) == {"kept/a.jsonl": root / "kept/a.jsonl"}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("[ab].jsonl", ["a.jsonl", "b.jsonl"]),
        ("in/*", ["c.csv"]),
        ("**/*.csv", ["in/c.csv"]),
        ("*/?.csv", ["in/c.csv"]),
    ],
)
def test_a_pattern_names_the_files_that_it_matches(folder, pattern, found):
    root = folder({"a.jsonl": b"", "b.jsonl": b"", "in/c.csv": b"", "in/notes.txt": b"", ".c.jsonl": b""})
    assert is_several(f"{root}/{pattern}")
    assert list(parts.parts_of(f"{root}/{pattern}")) == found


@pytest.mark.parametrize(
    ("files", "pattern", "words"),
    [
        ({"a.txt": b""}, "", "no data files that can be read"),
        ({"data-00000-of-00001.arrow": b"", "state.json": b""}, "", "Arrow files, as save_to_disk writes them"),
        ({"test.jsonl": b""}, "", "has no split 'train'; it has test"),
        ({"a.jsonl": b""}, "*.csv", "no data file matches"),
        ({"a.txt": b""}, "*.txt", "1 of other kinds do"),
        ({"in/a.jsonl": b""}, "*/../in/a.jsonl", "has .. behind a mark"),
        ({"in/a.jsonl": b""}, "*/../../*", "has .. behind a mark"),
    ],
)
def test_a_source_without_a_data_file_is_refused(folder, files, pattern, words):
    root = folder(files)
    with pytest.raises(DataError, match=words):
        parts.parts_of(f"{root}/{pattern}" if pattern else str(root))


def test_more_parts_than_can_be_held_open_are_refused(folder, monkeypatch):
    monkeypatch.setattr(parts, "MOST_PARTS", 2)
    with pytest.raises(DataError, match="has 3 data files, and at most 2"):
        parts.parts_of(str(folder(dict.fromkeys(["1.csv", "2.csv", "3.csv"], b""))))


def test_a_file_whose_name_has_marks_is_one_file(folder):
    root = folder({"a[1].jsonl": lines(1), "plain.jsonl": lines(2)})
    assert not is_several(f"{root}/a[1].jsonl")
    assert not is_several(f"{root}/plain.jsonl")
    assert not is_several(f"{root}/missing.jsonl")


@pytest.mark.parametrize(
    ("source", "name"), [("", "ds"), ("train-*.jsonl", "train"), ("*.jsonl", "ds"), ("[0-9].csv", "ds")]
)
def test_several_files_are_named_as_their_user_named_them(folder, source, name):
    assert dataset_name(f"{folder({'a.jsonl': b''})}/{source}".rstrip("/")) == name


PARTED = {
    "a.jsonl": lines(1, 2) + b"\n" + b'{"prompt": \n' + lines(3),
    "b.csv": b"prompt,completion\n4?,4\n5?,\n",
    "c.json": json.dumps([{"prompt": "6?", "completion": 6}], indent=1).encode(),
}


def test_rows_and_faults_of_several_files_are_numbered_through_and_name_their_part(folder):
    data = read(folder(PARTED))
    assert [(row.line, row.messages[0]["content"]) for row in data.rows] == [(1, "1?"), (2, "2?"), (4, "3?"), (5, "4?")]
    assert [(bad.line, bad.kind) for bad in data.bad.shown] == [(3, "bad_json"), (6, "empty"), (7, "not_text")]
    assert [bad.reason.rpartition(" (")[2] for bad in data.bad.shown] == [
        "a.jsonl, line 4)", "b.csv, line 3)", "c.json, line 2)",
    ]  # fmt: skip
    assert (data.lines, data.size_bytes) == (7, sum(map(len, PARTED.values())))
    assert data.notes[:2] == [
        "the rows of 3 files, in the order of their names; rows are numbered through all",
        "a.jsonl: rows 1 to 4",
    ]
    assert "a.jsonl: 1 blank line was skipped" in data.notes


def test_the_content_of_several_files_has_a_hash_that_each_part_changes(folder):
    root = folder(PARTED)
    before = parts.content_sha256(root)
    assert before == parts.content_sha256(folder(PARTED, "same"))
    folder({"b.csv": b"prompt,completion\n"})
    assert parts.content_sha256(root) != before
    assert parts.content_sha256(root / "a.jsonl") != before


def test_several_files_are_joined_to_one_with_the_same_rows(folder, tmp_path):
    root = folder(
        {"a.jsonl": lines(1), "b.csv": b'prompt,completion\n"2\n?",2\n', "c.json": b'[{"prompt": null, "x": 0.5}]'}
    )
    join(parts.parts_of(str(root)), tmp_path / "whole.jsonl", dataset="ds")
    assert [row.value for row in container(tmp_path / "whole.jsonl")] == [row.value for row in container(root)]
    folder({"b.csv": b"prompt,completion\n1\n"})
    with pytest.raises(DataError, match=r"ds, b.csv: line 2: the row has 1 cells"):
        join(parts.parts_of(str(root)), tmp_path / "whole.jsonl", dataset="ds")


def test_a_card_that_leads_out_of_the_allowed_folders_is_not_read(folder, tmp_path):
    card = b"---\nconfigs:\n- config_name: default\n  data_files: kept/*.jsonl\n---\n"
    root = folder({"kept/a.jsonl": b"", "b.jsonl": b""})
    (tmp_path / "card.md").write_bytes(card)
    (root / "README.md").symlink_to(tmp_path / "card.md")
    assert list(parts.parts_of(str(root))) == ["kept/a.jsonl"]
    assert list(parts.parts_of(str(root), roots=[root])) == ["b.jsonl", "kept/a.jsonl"]
