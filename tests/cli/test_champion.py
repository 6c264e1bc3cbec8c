"""``celora champion``: what a person sees, from the rows that were answered."""

import json

import pytest
from competition import numbered as right

from celora.models.database import get_database
from celora.models.scope.scope import Scope

pytestmark = pytest.mark.usefixtures("tables")


def test_a_job_is_promoted_for_its_own_tenant_also_where_another_tenant_alone_has_the_name(celora, contestant):
    for job_id, tenant in (("first", "acme"), ("second", "default")):
        contestant(job_id, {"base": right(0), "tuned": right(6)}, tenant=tenant)
        assert celora("champion", "promote", "bot", job_id).exit_code == 0
    rows = celora("champion", "--json").json()
    assert sorted((row["tenant"], row["job"]) for row in rows) == [("acme", "first"), ("default", "second")]


@pytest.mark.slow
def test_a_champion_is_promoted_shown_rolled_back_and_its_story_told(celora, pair):
    assert "Champion bot is now job second, version 2" in celora("champion", "promote", "bot", "second").stdout
    shown = celora("champion", "show", "bot", "--json").json()
    assert (shown["job"], shown["version"], shown["before"], shown["kind"]) == (
        "second",
        2,
        "first",
        "promoted_by_hand",
    )
    back = celora("champion", "rollback", "bot", "--reason", "too curt")
    assert (back.exit_code, "job first, version 3" in back.stdout) == (0, True)
    story = celora("champion", "history", "bot", "--json").json()
    assert [(each["version"], each["job"], each["reason"]) for each in story] == [
        (3, "first", "too curt"), (2, "second", "by hand"), (1, "first", "the first"),
    ]  # fmt: skip
    assert story[0]["by"]
    assert "rolled back" in celora("champion", "history", "bot").stdout
    assert [row["name"] for row in celora("champion", "--json").json()] == ["bot"]
    assert "too curt" in celora("champion", "show", "bot").stdout


def test_only_if_better_asks_the_gate(celora, pair, contestant):
    told = celora("champion", "promote", "bot", "second", "--if-better")
    assert told.exit_code == 0, told.stderr
    assert "Job second is champion bot: against first: exact match +58.3 points" in told.stdout
    met = {"name": "bot", "version": 2, "job": "second", "compared": True, "reason": ""}
    contestant("third", {"base": right(0), "tuned": right(3), "champion": right(20)}, met=met, champion="bot")
    told = celora("champion", "promote", "bot", "third", "--if-better")
    assert told.exit_code == 1
    assert told.stdout.startswith("Job second stays champion bot: against second: exact match")


def test_a_name_that_nobody_holds_is_a_sentence(celora, pair):
    for words in (("show", "bott"), ("history", "bott"), ("rollback", "bott")):
        result = celora("champion", *words)
        assert result.exit_code == 66
        assert "there is no champion bott; did you mean bot?" in result.stderr
    assert celora("champion", "rollback", "bot").exit_code == 64
    assert "competes for no champion" in celora("champion", "promote", "bot", "first", "--if-better").stderr


def test_without_a_champion_it_says_how_to_get_one(celora):
    assert "--champion" in celora("champion").stdout
    assert celora("champion", "list", "--json").json() == []


def test_a_gate_is_written_on_the_command_line_and_its_rows_are_imported(celora, rows, tmp_path):
    sure = tmp_path / "sure.jsonl"
    sure.write_text('{"prompt": "two", "completion": "2"}\n', encoding="utf-8")
    words = ["submit", "--base-model", "smollm2-135m-instruct", "--dataset", rows, "--champion", "bot"]
    gate = ["--gate", "metric=rouge_l", "--gate", "min_gain=0.02", "--gate", "must_not_regress=eval_loss,bleu"]
    refused = celora(*words)
    assert refused.exit_code == 64
    assert "champion: bot needs rows to be compared on" in refused.stderr
    made = celora(*words, "--eval-dataset", rows, *gate, "--gate", f"must_pass={sure}", "--json")
    assert made.exit_code == 0, made.stderr
    from celora.models import queries

    with get_database().session(Scope.everything) as session:
        spec = queries.find(session, made.json()["id"]).spec
    assert spec["gate"]["must_pass"].endswith(".jsonl")
    assert "/artifacts/datasets/" in spec["gate"]["must_pass"]
    del spec["gate"]["must_pass"]
    assert spec["gate"] == {
        "metric": "rouge_l", "min_gain": 0.02, "must_not_regress": ["eval_loss", "bleu"], "confidence": 0.95,
    }  # fmt: skip
    status = celora("status", made.json()["id"], "--json").json()
    assert json.dumps(status["datasets"]).count('"sure"') == 1
