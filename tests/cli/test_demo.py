import json
import os

import pytest

from celora.cli import demo
from celora.models.spec import parse_spec


def rows(name):
    return [json.loads(line)["messages"] for line in (demo.DATA / name).read_text(encoding="utf-8").splitlines()]


def fields(name):
    return [messages[-1]["content"].split(" | ") for messages in rows(name)]


def test_the_demos_job_is_a_valid_spec():
    assert parse_spec(demo.spec(seed=1)).seed == 1


def test_the_demos_rows_are_a_few_hundred_and_two_held_out_sets():
    assert [len(rows(f"{name}.jsonl")) for name in ("train", "eval_combinations", "eval_wordings")] == [240, 48, 24]


@pytest.mark.parametrize("name", ["eval_combinations.jsonl", "eval_wordings.jsonl"])
def test_no_held_out_row_repeats_what_training_saw(name):
    train, held = fields("train.jsonl"), fields(name)
    assert not {order for _, _, order, _, _ in train} & {order for _, _, order, _, _ in held}
    assert not {person for *_, person in train} & {person for *_, person in held}
    assert not {(problem, product) for problem, product, *_ in train} & {
        (problem, product) for problem, product, *_ in held
    }


def test_combinations_hold_the_same_problems_and_products_as_training():
    for column in (0, 1, 3):
        assert {row[column] for row in fields("eval_combinations.jsonl")} <= {
            row[column] for row in fields("train.jsonl")
        }


def test_every_answer_can_be_read_off_its_message():
    for name in ("train.jsonl", "eval_combinations.jsonl", "eval_wordings.jsonl"):
        for _, said, answer in rows(name):
            _, product, order, _, person = answer["content"].split(" | ")
            assert all(word in said["content"] for word in (product, order, person))


def test_a_home_that_is_set_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("CELORA_HOME", str(tmp_path / "here"))
    with demo.home() as home:
        assert home == tmp_path / "here"


def test_without_one_each_demo_has_a_new_folder_and_shares_converted_bases(monkeypatch, tmp_path):
    monkeypatch.delenv("CELORA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    with demo.home() as home:
        assert home.parent == tmp_path / ".celora" / "demo"
        assert os.environ["CELORA_HOME"] == str(home)
        assert (home / "cache").resolve() == tmp_path / ".celora" / "cache"
    assert "CELORA_HOME" not in os.environ
