import subprocess
import sys

import pytest

from celora.errors import SettingsError
from celora.tuning.files.faults import Fault
from celora.tuning.rows import formats
from celora.tuning.rows.formats import FORMATS, check_columns, recognise
from celora.tuning.rows.row_reader import CONVERT


def test_the_formats_are_told_apart_by_their_keys():
    for one in formats.FORMATS:
        for other in formats.FORMATS:
            assert one is other or not one.required <= other.required or formats._better(other, one)


def test_every_format_has_a_reader():
    assert {known.name for known in FORMATS} == CONVERT.keys()


def test_a_row_that_fits_two_formats_has_the_one_that_knows_all_its_keys():
    assert recognise({"instruction", "output", "text"}).name == "alpaca"
    with pytest.raises(Fault, match="fit prompt-completion and question-answer"):
        recognise({"prompt", "completion", "question", "answer"})


def test_a_mapping_of_columns_is_checked_without_a_reader():
    check_columns({"prompt": "q", "completion": "a"})
    with pytest.raises(SettingsError, match="belong to no one format"):
        check_columns({"messages": "m", "prompt": "q"})
    code = (
        "import sys, celora.tuning.rows.formats; print([m for m in sys.modules if 'readers' in m or 'csv_file' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_keys_that_differ_in_case_alone_are_told_so():
    with pytest.raises(Fault) as caught:
        recognise({"Prompt", "Completion"})
    assert "case matters" in caught.value.fix
