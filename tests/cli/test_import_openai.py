"""``celora import-openai`` plans unless it is told to submit, and names what is missing in one sentence."""

import pytest

from celora.api.client.openai_source import SourceFile
from celora.cli.import_openai import _name
from celora.services.tenants import keys


@pytest.mark.parametrize(
    ("given", "shown"),
    [("train.jsonl", "train.jsonl"), ("../../etc/rows.csv", "rows.csv"), ("a\\b.jsonl", "b.jsonl"),
     ("..", "file-1.jsonl"),
     ("", "file-1.jsonl"), ("x" * 300 + ".jsonl", "file-1.jsonl"), ("a\x1b[2J.jsonl", "file-1.jsonl")],
)  # fmt: skip
def test_a_name_of_there_leads_nowhere_here(given, shown):
    assert _name(SourceFile(id="file-1", filename=given, bytes=1)) == shown


@pytest.fixture
def import_from(celora, served, tables, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", keys.create_key("default").key)
    return lambda *words: celora("import-openai", "--from", f"{served}/v1", *words)


def test_a_user_without_jobs_has_an_empty_table(import_from, tmp_path):
    result = import_from("--json")
    assert (result.exit_code, result.json()) == (0, [])
    assert import_from("--out", tmp_path / "out").stdout == "There is no job.\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["before-after.json", "before-after.md"]


def test_an_old_key_a_wrong_url_and_a_table_of_another_form_are_one_sentence_each(
    import_from, celora, tmp_path, monkeypatch
):
    (tmp_path / "bases.toml").write_text("nothing = 1")
    refused = [
        (import_from("--bases", tmp_path / "bases.toml"), 64, "another form"),
        (celora("import-openai", "--from", "openai.com"), 64, "is no URL of a server"),
        (celora("import-openai", "--from", "http://10.0.0.1/v1"), 77, "without encryption"),
    ]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-old")
    refused.append((import_from(), 77, "refuses the key"))
    for result, exit_code, words in refused:
        assert (result.exit_code, words in result.stderr, result.stdout) == (exit_code, True, ""), result.stderr
        assert "sk-old" not in result.stderr
