"""Ids of trained models: five parts, whatever the base is called."""

import pytest

from celora.models.openai.model_ids import checkpoint_id, model_id, name_of, split_checkpoint


@pytest.mark.parametrize(
    ("base", "name"),
    [("gpt-4o-mini", "gpt-4o-mini"), ("org/model", "model"), ("/srv/bases/tiny/", "tiny"), ("a:b", "a-b")],
)
def test_an_id_has_five_parts(base, name):
    made = model_id(base, "team-a", "", "job")
    assert name_of(base) == name
    assert made.split(":")[:4] == ["ft", name, "team-a", ""]
    assert len(made.split(":")) == 5


def test_the_tail_is_the_jobs_own():
    tails = {model_id("m", "t", "s", f"job-{number}").rsplit(":", 1)[1] for number in range(1000)}
    assert len(tails) == 1000
    assert model_id("m", "t", "s", "job-1") == model_id("m", "t", "s", "job-1")


def test_a_checkpoint_names_its_model_and_step():
    assert split_checkpoint(checkpoint_id("ft:m:t:s:x", 12)) == ("ft:m:t:s:x", 12)
    assert split_checkpoint("ft:m:t:s:x") == ("ft:m:t:s:x", None)
