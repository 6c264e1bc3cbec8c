"""``celora compare`` and ``rate``: what a person sees, from the rows that were answered."""

import pytest
from competition import numbered as right

pytestmark = pytest.mark.usefixtures("tables")


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
    kept = celora("audit", "--action", "rating", "--json").json()
    assert [(row["action"], row["after"]["held_out"]) for row in kept] == [("rating.set", "eval")] * 4


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
