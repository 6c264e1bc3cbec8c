"""The table of bases: the person's own lines, then what the installation has, then the lines that come with celora."""

import pytest

from celora.api.client.base_table import SHIPPED, BaseTable, read_table
from celora.errors import SettingsError


def table(given=None):
    return BaseTable(given=given or {}, aliases={"gpt-4o-mini": "small"}, own=["small", "org/large"],
                     shipped=read_table(SHIPPED))  # fmt: skip


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("gpt-4o-mini", "small"),
        ("org/large", "org/large"),
        ("gpt-4o-mini-2024-07-18", "Qwen/Qwen2.5-7B-Instruct"),
        ("gpt-4o-2024-08-06", "Qwen/Qwen2.5-32B-Instruct"),
        ("gpt-4.1-nano-2025-04-14", "Qwen/Qwen2.5-1.5B-Instruct"),
        ("gpt-3.5-turbo-0125", "Qwen/Qwen2.5-7B-Instruct"),
        ("ft:gpt-4o-mini-2024-07-18:acme:bot:9abc", "Qwen/Qwen2.5-7B-Instruct"),
        ("ft:small:default:bot:12345678", "small"),
        ("o4-mini-2025-04-16", None),
        ("", None),
        ("ft:", None),
    ],
)
def test_a_model_has_its_base(model, base):
    assert table().find(model) == base


def test_the_persons_own_line_comes_first():
    assert table({"gpt-4o-mini": "mine"}).find("gpt-4o-mini") == "mine"
    assert table({"gpt-*": "mine"}).find("gpt-4o-2024-08-06") == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [("[bases", "is no TOML"), ("bases = 3", "another form"), ("", "another form"),
     ('[bases]\n"a" = 3', "no base for a"),
     ('[bases]\n"a" = " "', "no base for a"), ("[bases]\n[more]", "another form")],
)  # fmt: skip
def test_a_table_of_another_form_says_what_to_write(tmp_path, text, words):
    path = tmp_path / "bases.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words) as caught:
        read_table(path)
    assert "[bases]" in caught.value.hint


def test_a_missing_table_is_one_sentence(tmp_path):
    with pytest.raises(SettingsError, match="can't be read"):
        read_table(tmp_path / "none.toml")
