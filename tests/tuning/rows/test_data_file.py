from pathlib import Path

import pytest

from celora.errors import DataError
from celora.tuning.files.faults import BadLine
from celora.tuning.rows.data_file import BadRowsError, DataFile, OtherMethodError, require_both_labels, require_good


def data(**facts):
    return DataFile(Path("train.jsonl"), "0" * 64, 10, **facts)


def test_bad_lines_are_raised_with_the_first_five_and_their_remedies():
    found = data(lines=9)
    for line in range(1, 8):
        found.bad.add(BadLine(line, "answer", None, "empty", "answer is empty", "write it"))
    with pytest.raises(
        BadRowsError, match=r"7 bad lines of 9: line 1, answer: .*line 5, answer: .*and 2 more"
    ) as caught:
        require_good(found)
    assert caught.value.hint == "Write it."


def test_a_file_without_rows_and_one_for_another_training_are_refused():
    with pytest.raises(DataError, match="holds no rows"):
        require_good(data())
    with pytest.raises(OtherMethodError, match="3 preference rows"):
        require_good(data(good=3, trains=False, format="preference"))
    with pytest.raises(OtherMethodError, match="3 chat rows, and method dpo does not") as caught:
        require_good(data(good=3, format="chat"), "dpo")
    assert caught.value.hint == "Take method out of the job, or write rows of chosen and rejected."
    with pytest.raises(OtherMethodError, match="method orpo") as caught:
        require_good(data(good=3, trains=False, format="unpaired"), "orpo")
    assert "`method: kto`" in caught.value.hint


def test_labels_of_one_side_are_refused():
    found = data(good=3, trains=False, format="unpaired")
    found.labels[True] = 3
    with pytest.raises(DataError, match="all 3 rows have the label true") as caught:
        require_both_labels(found)
    assert caught.value.hint.startswith("Add rows with the label false, or train on these answers")
    found.labels[False] = 1
    require_both_labels(found)


def test_a_file_with_one_label_is_warned_of():
    found = data(good=3)
    found.labels[True] = 3
    assert found.warnings == ["every row of train.jsonl has the label true; unpaired training needs both"]
