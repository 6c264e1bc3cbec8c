"""Publishing names the adapter, keeps its card's facts, and gives the caller a summary."""

from celora.models.states import Stage
from celora.workers.stages import publish

EVALUATED = {"uri": "file:///e", "samples": [{"set": "eval"}], "checks": [{"name": "finite", "ok": True}],
             "servable": {"vllm": True}}  # fmt: skip


def test_the_caller_gets_the_numbers_of_training_and_evaluation(installation):
    with installation.claimed(Stage.PUBLISH) as stage:
        stage.job.evaluation, stage.job.metrics = EVALUATED, {"tuned": {"eval_loss": 1.0}}
        summary = publish._summary(stage, "file:///p", "tiny-j")
        facts = publish._facts(stage)
    assert summary == {
        "id": "j", "status": "completed", "name": "tiny-j", "adapter": "file:///p",
        "metrics": {"tuned": {"eval_loss": 1.0}}, "cost": 0.0, "gpu_seconds": stage.job.gpu_seconds, "steps": 9,
        "trainable_parameters": 3, "total_parameters": 90, "servable": {"vllm": True}, "warnings": [],
    }  # fmt: skip
    assert (facts["train_rows"], facts["eval_rows"], facts["checks"]) == (8, {"eval": 2}, EVALUATED["checks"])


def test_the_card_says_how_the_gate_of_a_champion_decided():
    assert publish._verdict(None) == {}
    challenge = {"promote": True, "name": "bot", "reason": "better by 0.1"}
    assert publish._verdict(challenge) == {"champion": "passes the gate of bot, better by 0.1"}
    assert "does not pass" in publish._verdict(challenge | {"promote": False})["champion"]
