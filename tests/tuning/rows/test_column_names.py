import pytest

from celora.errors import SettingsError
from celora.tuning.rows.data_file import require_good
from celora.tuning.rows.row_reader import read

GOOD = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}


def test_other_names_are_mapped_columns_turn_keys_and_speakers(write):
    path = write({"q": "2+2?", "best": "4", "prompt": "unused"})
    data = read(path, {"prompt": "q", "completion": "best"})
    require_good(data)
    assert [m["content"] for m in data.rows[0].messages] == ["2+2?", "4"]
    path = write({"talk": [{"who": "customer", "said": "2+2?"}, {"who": "agent", "said": "4"}]})
    names = {"conversations": "talk", "from": "who", "value": "said", "human": "customer", "gpt": "agent"}
    data = read(path, names)
    require_good(data)
    assert [(m["role"], m["content"]) for m in data.rows[0].messages] == [("user", "2+2?"), ("assistant", "4")]


def test_a_fault_under_a_mapped_name_is_found_at_its_own_place(write):
    data = read(write('{"q": "2+2?", "best": ""}'), {"prompt": "q", "completion": "best"})
    assert (data.bad.shown[0].path, data.bad.shown[0].kind) == ("best", "empty")


def test_a_mapping_decides_between_two_formats(only_bad, write):
    row = {**GOOD, "prompt": "a", "completion": "b"}
    assert only_bad(row).kind == "ambiguous"
    data = read(write(row), {"messages": "messages"})
    assert (data.format, data.ignored_keys) == ("chat", {"prompt": 1, "completion": 1})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"colour": "q"}, "'colour' is no name"),
        ({"prompt": "q", "completion": "q"}, "'q' is mapped twice"),
        ({"messages": "m", "prompt": "q"}, "belong to no one format"),
    ],
)
def test_a_mapping_that_no_file_could_have_is_refused(write, columns, words):
    with pytest.raises(SettingsError, match=words) as caught:
        read(write(GOOD), columns)
    assert caught.value.hint
