"""The same pipeline with PostgreSQL as the record, and with a real language model as the base."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_the_real_model_goes_through_the_whole_pipeline_on_postgresql(started, new_postgres, spec, legal_history):
    running = started({"CELORA_DATABASE_URL": new_postgres()})
    short = {"base_model": "smollm2-135m-instruct", "max_steps": 3, "eval_fraction": 0.1, "metrics": ["exact_match"]}
    result = running.send({**spec, **short})
    summary = result.get(timeout=300)
    assert summary["status"] == "completed"
    assert summary["metrics"]["tuned"]["eval_loss"] < summary["metrics"]["base"]["eval_loss"]
    assert running.job(result.id)["status"] == "completed"
    assert legal_history(running.events(result.id)) == []
