"""The same pipeline with PostgreSQL as the record."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_the_whole_pipeline_runs_on_postgresql(started, new_postgres, spec, legal_history):
    running = started({"CELORA_DATABASE_URL": new_postgres()})
    result = running.send(spec)
    assert result.get(timeout=180)["status"] == "completed"
    job = running.job(result.id)
    assert job["status"] == "completed"
    assert legal_history(running.events(result.id)) == []
