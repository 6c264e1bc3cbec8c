import pytest

from celora.tuning.files.faults import Fault
from celora.tuning.files.strict_json import parse, parse_value


def test_strict_json_is_what_json_is():
    assert parse('{"a": [1, -2.5e3, "x\\ud83d\\ude00", null, true]}') == {"a": [1, -2500.0, "x\U0001f600", None, True]}
    assert parse_value(" [1] ") == [1]


@pytest.mark.parametrize(
    ("text", "kind", "at"),
    [
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "duplicate_key", ("a", "b")),
        ('{"a": [0, {"x": NaN}]}', "not_finite", ("a", 1, "x")),
        ('{"a": 1, "b": [[1e400]]}', "not_finite", ("b", 0, 0)),
        ('{"a": {"n": ' + "1" * 500 + "}}", "number_too_long", ("a", "n")),
        ('{"n": ' + "1" * 5000 + "}", "number_too_long", ("n",)),
        ('{"n": -Infinity"words"}', "not_finite", ()),
        ('{"n": 1e999, "m" 1}', "not_finite", ()),
        ('{"n": 1, "m": {"a": 1, "a": 2}, "x', "duplicate_key", ()),
        ('{"n": ' + "1" * 5000 + ".}", "number_too_long", ()),
    ],
)
def test_a_refused_value_is_named_by_its_path(text, kind, at):
    with pytest.raises(Fault) as caught:
        parse(text)
    assert (caught.value.kind, caught.value.at) == (kind, at)


@pytest.mark.parametrize(
    ("text", "kind", "offset"),
    [
        ('{"a": 1', "bad_json", 7),
        ('{"a": "\\u0000"}', "nul", 7),
        ('{"a": "\\udc00"}', "surrogate", 7),
        ("[" * 65 + "]" * 65, "too_deep", 64),
        ("[" * 100_000, "too_deep", 64),
    ],
)
def test_a_fault_of_the_text_is_named_by_its_offset(text, kind, offset):
    with pytest.raises(Fault) as caught:
        parse(text)
    assert (caught.value.kind, caught.value.offset) == (kind, offset)
