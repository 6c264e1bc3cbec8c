"""The first row of a file says at submit which method trains on it."""

import json

import pytest

from celora.errors import DataError
from celora.services.first_row import require_method

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
LABELLED = {"prompt": "a", "completion": "b", "label": True}


@pytest.fixture
def write(tmp_path):
    def write(content, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content) + "\n{\n")
        return path

    return write


def test_preferences_without_a_method_are_refused_with_the_line_to_write(write):
    with pytest.raises(DataError, match="preference format, and method sft does not") as caught:
        require_method(write(PAIR), {}, "sft")
    assert caught.value.hint == "Write the line `method: dpo` (or orpo, kto) into the job."
    with pytest.raises(DataError, match="unpaired format") as caught:
        require_method(write(LABELLED), {}, "dpo")
    assert caught.value.hint == "Write the line `method: kto` into the job."
    with pytest.raises(DataError, match="method kto does not") as caught:
        require_method(write({"text": "a"}), {}, "kto")
    assert caught.value.hint == "Take method out of the job."


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "x" * 100_000, json.dumps({"prompt": "a" * 70_000})])
def test_a_row_that_cannot_be_read_is_left_to_prepare(write, content):
    require_method(write(content), {}, "dpo")


def test_other_files_and_mapped_columns_are_understood(write, tmp_path):
    require_method(tmp_path / "none.jsonl", {}, "sft")
    require_method(write(PAIR, "rows.json"), {}, "sft")
    mapped = write({"question": "a", "good": "b", "bad": "c"})
    with pytest.raises(DataError, match="preference format"):
        require_method(mapped, {"prompt": "question", "chosen": "good", "rejected": "bad"}, "sft")
