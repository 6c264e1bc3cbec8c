"""LiteLLM's SDK and the integration of Weights & Biases as clients of the API, in an environment of their own."""

import json
from pathlib import Path

import pytest
from client_environment import install, run
from moved_job import Moved
from served_api import as_command

from celora.models.database import get_database
from celora.services.openai.result_file import write_result
from celora.settings.settings import get_settings
from celora.workers.node.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the packages are installed first
WANTED = ("litellm==1.110.2", "wandb==0.31.0", "pandas==2.3.3", "numpy")
CALLS = Path(__file__).with_name("litellm_wandb_calls.py")
POINTS = [{"step": 1, "train_loss": 2.0, "eval_loss": 3.0}, {"step": 2, "train_loss": 1.5}]


def test_litellm_and_weights_and_biases_run_here(record, monkeypatch):
    python = install(*WANTED)
    monkeypatch.setenv("CELORA_MODEL_ALIASES", json.dumps({"gpt-4o-mini": "smollm2-135m-instruct"}))
    monkeypatch.setenv("CELORA_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    get_settings.cache_clear()
    with as_command() as (port, _):
        url = f"http://127.0.0.1:{port}/v1"
        assert run(python, url, "none-yet", "litellm", program=CALLS) == {
            "first": True, "epochs": 2, "seed": 3, "content": True, "status": "cancelled", "file": "rows.jsonl",
            "deleted": True,
        }  # fmt: skip
        job_id = run(python, url, "none-yet", "left", program=CALLS)["id"]
        Moved(get_database(), job_id).complete(POINTS, checkpoints=(1, 2))
        write_result(get_database(), get_settings(), job_id)
        found = run(python, url, "none-yet", "wandb", job_id, program=CALLS)
    assert found.pop("model").startswith("ft:gpt-4o-mini:default::")
    rows = [{"step": step, "train_loss": loss, "valid_loss": 3.0} for step, loss in ((1, 2.0), (2, 1.5))]
    assert found == {"said": True, "rows": rows, "epochs": 3}
