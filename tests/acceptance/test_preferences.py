"""First answers, then preferences: a schedule goes on from its champion by DPO, and its gate decides by the rewards."""

import json
from pathlib import Path

import pytest

from celora.models import champions
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.services import schedules

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COLOURS = ("red", "blue", "green", "grey")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preferences")

    def answers(numbers):
        return [{"prompt": f"colour of item {n}", "completion": f"item {n} is {COLOURS[n % 4]}"} for n in numbers]

    def pairs(numbers):
        return [
            {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "I do not know any item at all"}
            for row in answers(numbers)
        ]

    return {
        "answers": write(folder / "answers.jsonl", answers(range(24))),
        "held_answers": write(folder / "held_answers.jsonl", answers(range(24, 36))),
        "pairs": write(folder / "pairs.jsonl", pairs(range(24))),
        "held_pairs": write(folder / "held_pairs.jsonl", pairs(range(24, 36))),
    }


def champion():
    with get_database().session(Scope.everything) as session:
        found = champions.find(session, "default", "bot")
        return found.job_id if found else None


def test_a_schedule_goes_on_from_its_champion_and_the_gate_judges_its_rewards(running, spec, files):
    common = {**spec, "eval_fraction": 0, "champion": "bot", "eval_max_rows": 4, "max_steps": 6, "learning_rate": 5e-3}
    loose = {"min_gain": 0, "confidence": None}
    first = {**common, "dataset": files["answers"], "eval_dataset": files["held_answers"]}
    sft = running.send({**first, "gate": {"metric": "eval_loss", **loose}}, task_id="answers")
    assert sft.get(timeout=240)["status"] == "completed"
    assert champion() == "answers"

    fields = {name: value for name, value in common.items() if name != "rank"}
    fields |= {"dataset": files["pairs"], "eval_dataset": files["held_pairs"], "method": "dpo", "continue_from": "bot"}
    schedules.add("better", {**fields, "gate": {"metric": "reward_accuracy", **loose}}, every="52w")
    job_id = schedules.run_now("better")["job_id"]
    running.wait(job_id, lambda job: job["status"] in ("completed", "failed"), timeout_s=300)
    with get_database().session(Scope.everything) as session:
        job = session.get_one(Job, job_id)
        session.expunge(job)
    assert job.status == "completed", job.error
    assert (job.spec["continue_from"], job.spec["rank"]) == ("answers", spec["rank"])
    assert "continues" in [event["kind"] for event in running.events(job_id)]
    assert job.metrics["champion"]["reward_accuracy"] == 0  # the parent is the reference
    assert job.metrics["tuned"]["reward_accuracy"] > 0
    assert champion() == job_id
    card = Path(job.adapter_uri.removeprefix("file://")) / "README.md"
    assert "- trained on from: answers" in card.read_text()
