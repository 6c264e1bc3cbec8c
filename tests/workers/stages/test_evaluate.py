"""The request of an evaluation follows the record; an opponent says whether it was compared."""

from celora.models.states import Stage
from celora.tuning.protocol import Rival
from celora.workers.stages.evaluate import Opponent, evaluate_request


def test_an_evaluation_reads_the_trained_adapter_and_expects_its_loss(installation):
    with installation.claimed(Stage.EVALUATE) as stage:
        rival = Rival(side="champion", adapter_dir="/a")
        request = evaluate_request(stage, rival)
    assert request.trainer_eval_loss == 2.0
    assert request.adapter_dir == str(stage.workspace.artifacts.local_path(stage.workspace.uri("adapter")))
    assert (request.rivals, request.whole_sets, request.base.name) == ([rival], ["must_pass"], "tiny")
    assert request.recipe.micro_batch == 4


def test_an_opponent_that_answered_was_compared():
    opponent = Opponent(name="bot", version=3, job_id="first")
    assert opponent.facts({"champion": {}}) == {
        "name": "bot", "version": 3, "job": "first", "compared": True, "reason": "",
    }  # fmt: skip


def test_an_opponent_that_did_not_answer_says_why():
    assert "could not be loaded" in Opponent(name="bot", job_id="first").facts({})["reason"]
    assert Opponent(name="bot", job_id="first", reason="another base").facts({})["reason"] == "another base"
    assert Opponent(name="bot").facts({})["reason"] == ""
