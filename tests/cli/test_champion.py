"""``celora champion``, ``compare`` and ``rate``: what a person sees, from the rows that were answered."""

import json

import pytest

from celora.models.database import get_database

ROWS = 24


def right(count, wrong="wrong"):
    return [f"r{i}" if i < count else f"{wrong} {i}" for i in range(ROWS)]


@pytest.fixture(autouse=True)
def record(home):
    home.mkdir(parents=True, exist_ok=True)
    get_database().migrate()


@pytest.fixture
def pair(contestant, celora):
    """``first`` is champion bot; ``second`` was measured beside it and is not."""
    contestant("first", {"base": right(0), "tuned": right(6, "first")})
    assert celora("champion", "promote", "bot", "first", "--reason", "the first").exit_code == 0
    met = {"name": "bot", "version": 1, "job": "first", "compared": True, "reason": ""}
    answers = {"base": right(0), "tuned": right(20, "second"), "champion": right(6, "first")}
    contestant("second", answers, met=met, champion="bot")


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


def test_two_are_compared_on_the_rows_that_both_answered(celora, pair):
    told = celora("compare", "bot", "second", "--rows", 1)
    assert told.exit_code == 0, told.stderr
    assert "+58.3 points" in told.stdout
    assert "14 rows got better, the first:" in told.stdout
    assert "0 rows got worse" in told.stdout
    assert "bot: first 6" in told.stdout
    assert "second: r6" in told.stdout
    assert "note:" not in told.stdout
    facts = celora("compare", "bot", "second", "--json").json()
    assert facts["together"]
    exact = facts["sets"]["eval"]["measures"]["exact_match"]
    assert (exact["one"], exact["other"], exact["better"]) == (0.25, pytest.approx(20 / 24), "other")
    assert facts["sets"]["eval"]["measures"]["eval_loss"]["better"] == "other"
    back = celora("compare", "second", "first", "--json").json()["sets"]["eval"]
    assert (back["measures"]["exact_match"]["better"], len(back["better"])) == ("one", 0)


def test_what_was_measured_apart_on_the_same_rows_is_compared_with_a_note(celora, contestant):
    contestant("first", {"base": right(0), "tuned": right(6)})
    contestant("second", {"base": right(0), "tuned": right(8)})
    told = celora("compare", "first", "second")
    assert told.exit_code == 0, told.stderr
    assert "may be chance" in told.stdout
    assert "note: they were measured apart" in told.stdout


def test_other_bases_are_compared_without_their_losses(celora, contestant):
    contestant("first", {"base": right(0), "tuned": right(6)})
    contestant("second", {"base": right(0), "tuned": right(8)}, base="other")
    facts = celora("compare", "first", "second", "--json").json()
    assert "eval_loss" not in facts["sets"]["eval"]["measures"]
    assert any("their bases differ" in note for note in facts["notes"])


def test_what_was_not_measured_on_the_same_rows_says_how_to_do_it(celora, contestant):
    contestant("first", {"base": right(0), "tuned": right(6)})
    contestant("second", {"base": right(0)[:10], "tuned": right(8)[:10]})
    told = celora("compare", "first", "second")
    assert told.exit_code == 64
    assert "were not evaluated on the same rows" in told.stderr
    assert "--run" in told.stderr
    assert "can't be compared with itself" in celora("compare", "base", "base").stderr


def test_an_adapter_is_compared_with_its_base(celora, contestant):
    contestant("first", {"base": right(0), "tuned": right(12)})
    facts = celora("compare", "base", "tiny-first", "--json").json()
    assert (facts["one"], facts["other"]) == ("base", "first")
    assert facts["sets"]["eval"]["measures"]["exact_match"]["better"] == "other"


def shown_first(text):
    """For each row that was asked, whose answer stood first."""
    return [line.split()[1] for line in text.splitlines() if line.startswith("  1: ")]


def test_answers_are_shown_blind_in_an_order_of_their_own_and_every_choice_is_kept(celora, pair):
    asked = celora("rate", "second", "bot", "--seed", 3, stdin="")
    assert asked.exit_code == 0, asked.stderr
    assert "18 rows to choose from; both say the same in 6, 0 you have rated before." in asked.stdout
    first = celora("rate", "second", "bot", "--rows", 12, "--seed", 3, stdin="q\n").stdout
    assert "second" not in first.split("\n", 1)[1].split("better?")[0].replace("second 2", "")
    stdin = "1\n2\n=\ns\nnonsense\n1\nq\n"
    told = celora("rate", "second", "bot", "--seed", 3, "--json", stdin=stdin)
    facts = told.json()
    assert facts["wins"] + facts["losses"] == 3
    assert facts["neither"] == 1
    assert "'nonsense' is none of them." in told.stderr
    again = celora("rate", "second", "bot", stdin="").stdout
    assert "14 rows to choose from; both say the same in 6, 4 you have rated before." in again


def test_the_win_rate_counts_for_whoever_was_behind_the_choice(celora, pair):
    run = celora("rate", "second", "bot", "--rows", 18, "--seed", 5, stdin="1\n" * 18)
    order = shown_first(run.stdout)
    assert len(order) == 18
    ours = sum(not word.startswith("first") for word in order)
    assert 0 < ours < 18
    assert f"second is preferred against bot in {ours / 18:.0%} of 18 ratings (95 % interval" in run.stdout
    facts = celora("champion", "show", "bot", "--json").json()["preference"]
    assert facts == [{"against": "second", "wins": 18 - ours, "losses": ours, "neither": 0}]
    assert "preferred" in celora("status", "second").stdout
    assert "second was preferred against first" in celora("compare", "bot", "second").stdout


def test_a_job_is_rated_against_its_base_too(celora, contestant):
    contestant("first", {"base": right(0), "tuned": right(6)})
    assert "first is preferred against base" in celora("rate", "first", "base", "--rows", 2, stdin="1\n1\n").stdout
    assert "are the same" in celora("rate", "first", "tiny-first", stdin="").stderr
    assert "there is no held-out set other" in celora("rate", "first", "base", "--set", "other", stdin="").stderr


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
    from celora.models import history

    with get_database().session() as session:
        spec = history.find(session, made.json()["id"]).spec
    assert spec["gate"]["must_pass"].endswith(".jsonl")
    assert "/artifacts/datasets/" in spec["gate"]["must_pass"]
    del spec["gate"]["must_pass"]
    assert spec["gate"] == {
        "metric": "rouge_l", "min_gain": 0.02, "must_not_regress": ["eval_loss", "bleu"], "confidence": 0.95,
    }  # fmt: skip
    status = celora("status", made.json()["id"], "--json").json()
    assert json.dumps(status["datasets"]).count('"sure"') == 1
