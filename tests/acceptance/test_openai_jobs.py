"""Whole jobs through the unmodified ``openai`` client: a real worker, a tiny base, a real socket, both databases."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from client_environment import install, run
from live_installation import Running, start, stop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
VERSIONS = ("3.57.0", "2.54.0", "1.109.1")
BAD = {"status": "failed", "error": ["invalid_training_file", "training_file", True], "file": ["error", True]}
HEADER = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"


@contextmanager
def open_door(home, base, **settings):
    """Run an installation with the API, where ``gpt-4o-mini`` is the tiny base; yield its base URL."""
    allowed = {"CELORA_ALLOWED_BASES": json.dumps([str(base)]), "CELORA_ALLOWED_ROOTS": json.dumps([str(base.parent)])}
    aliases = {"CELORA_MODEL_ALIASES": json.dumps({"gpt-4o-mini": str(base)})}
    installation, patch = start(home, {**allowed, **aliases, **settings}, api=True, spare=False)
    try:
        lines = (Running(installation).settings.home / "celora.env").read_text().splitlines()
        yield next(line.partition("=")[2].strip("'\"") for line in lines if "CELORA_API_URL" in line)
    finally:
        stop(installation, patch)


def test_jobs_run_to_their_end_and_go_on_from_a_model_and_from_a_checkpoint(base, tmp_path):
    python = install(f"openai=={VERSIONS[0]}")
    with open_door(tmp_path / "home", base) as url:
        check_trained(run(python, url, "none-yet", "trained", "strict"))
        assert run(python, url, "none-yet", "bad_rows") == BAD


def test_jobs_of_each_client_run_side_by_side_on_postgresql(base, new_postgres, tmp_path):
    """Their stages overlap, so that the worker that trains never waits for one that prepares."""
    newest, second, first = (install(f"openai=={version}") for version in VERSIONS)
    calls = [(newest, "trained", "strict"), (newest, "bad_rows"), (newest, "stopped"), (second, "short", "strict"),
             (first, "short", "strict")]  # fmt: skip
    home = tmp_path / "home"
    with open_door(home, base, CELORA_DATABASE_URL=new_postgres()) as url, ThreadPoolExecutor(len(calls)) as pool:
        trained, bad, stopped, *short = pool.map(lambda call: run(call[0], url, "none-yet", *call[1:]), calls)
    check_trained(trained)
    assert bad == BAD
    assert stopped == {
        "states": [["running", "running"], ["queued", "paused"], ["running", "running"]], "end": "cancelled",
        "again": None, "deleted": True,
    }  # fmt: skip
    for found in short:
        model = found.pop("model")
        assert model.startswith("ft:gpt-4o-mini:default:short:")
        assert found == {
            "status": "succeeded", "file": "processed", "checkpoints": [3], "header": HEADER.rsplit(",", 2)[0],
            "last": ["The job has successfully completed", f"New fine-tuned model created: {model}"],
        }  # fmt: skip


def check_trained(found):
    name, model = found.pop("last")[1].rsplit(" ", 1)
    assert (name, model) == ("New fine-tuned model created:", found.pop("model"))
    assert model.startswith("ft:gpt-4o-mini:default:bot:")
    assert found.pop("tokens") > 0
    assert found.pop("first").startswith("Created fine-tuning job: ftjob-")
    assert found == {
        "states": ["succeeded"] * 3, "errors": [None, None], "steps": [3, 6], "valid": [True, True], "lines": 6,
        "header": [HEADER], "beta": 0.2, "owners": ["default", "default"],
    }  # fmt: skip
