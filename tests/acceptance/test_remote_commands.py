"""The README's story by the commands of a machine that has the server's URL and a key, and nothing else of celora's.

The commands run in a network namespace of their own, from which the server's API alone can be reached.
"""

import json
import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from live_installation import Running, start, stop
from other_network import can_be_left, way_to

from celora.services.tenants import keys

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not can_be_left(), reason="this kernel permits no network namespaces"),
]


@pytest.fixture
def server(base, tmp_path):
    """The URL, a key, and the broker's port of an installation where ``gpt-4o-mini`` is the tiny base."""
    allowed = {"CELORA_ALLOWED_BASES": json.dumps([str(base)]), "CELORA_ALLOWED_ROOTS": json.dumps([str(base.parent)])}
    aliases = {"CELORA_MODEL_ALIASES": json.dumps({"gpt-4o-mini": str(base)})}
    installation, patch = start(tmp_path / "server", {**allowed, **aliases}, api=True, spare=False)
    try:
        lines = (Running(installation).settings.home / "celora.env").read_text().splitlines()
        url = next(line.partition("=")[2].strip("'\"") for line in lines if "CELORA_API_URL" in line)
        yield url, keys.create_key("default").key, urlsplit(Running(installation).settings.broker_url).port
    finally:
        stop(installation, patch)


@pytest.fixture
def there(server, tmp_path):
    """Runs a command in a folder and an environment of its own; returns its exit code and output."""
    url, key, broker_port = server
    (tmp_path / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELORA_")}
    environment |= {"CELORA_HOME": str(tmp_path / "no home"), "CELORA_SERVER": url, "CELORA_API_KEY": key}

    with way_to(url) as way:

        def run(*words, program=("-m", "celora.cli")):
            command = [*way, sys.executable, *program, *map(str, words)]
            done = subprocess.run(
                command, env=environment, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False
            )
            return done.returncode, done.stdout, done.stderr

        run.broker_port = broker_port
        yield run


REACHED = """
import os, socket
from urllib.parse import urlsplit
server = urlsplit(os.environ["CELORA_SERVER"])
socket.create_connection((server.hostname, server.port)).close()
try:
    socket.create_connection(("127.0.0.1", BROKER)).close()
except ConnectionRefusedError:
    print("the API alone")
"""


def test_a_job_is_checked_submitted_followed_and_pulled_and_others_are_steered_from_elsewhere(there, rows, tmp_path):
    spec = {"base_model": "gpt-4o-mini", "dataset": str(rows), "eval_fraction": 0.2, "max_steps": 4, "micro_batch": 2,
            "effective_batch": 4, "rank": 4, "eval_max_new_tokens": 8, "seed": 1}  # fmt: skip
    (tmp_path / "elsewhere" / "job.yaml").write_text(json.dumps(spec))

    assert there(program=("-c", REACHED.replace("BROKER", str(there.broker_port))))[1] == "the API alone\n"

    exit_code, printed, error = there("check", "job.yaml", "--json")
    assert (exit_code, json.loads(printed or "{}").get("ok")) == (0, True), error

    exit_code, printed, progress = there("submit", "job.yaml", "--wait", "--json")
    assert exit_code == 0, progress
    outcome = json.loads(printed)
    job_id = outcome["id"]
    assert (outcome["status"], outcome["adapter"].startswith("ft:gpt-4o-mini:default:")) == ("completed", True)
    assert "train" in progress

    status = json.loads(there("status", job_id, "--json")[1])
    assert (status["step"], status["steps"], status["worker"]) == (4, 4, None)
    assert set(status["stage_seconds"]) >= {"prepare", "train"}
    assert "==> 001-train.log <==" in there("logs", job_id, "-f")[1]

    exit_code, printed, error = there("pull", job_id, "mine", "--json")
    assert exit_code == 0, error
    names = {file["name"] for file in json.loads(printed)["files"]}
    assert {"adapter_config.json", "adapter_model.safetensors", "manifest.json", "celora.json"} <= names

    second = json.loads(there("submit", "job.yaml", "--epochs", "50", "--max-steps", "100000", "--json")[1])["id"]
    assert json.loads(there("pause", second, "--json")[1])["answer"] in ("paused", "pausing")
    assert there("resume", second)[0] == 0
    assert json.loads(there("cancel", second, "--json")[1])["answer"] in ("cancelled", "cancelling")
    assert there("logs", second, "-f")[0] == 0  # it stays until the job has ended
    assert json.loads(there("status", second, "--json")[1])["status"] == "cancelled"
    third = json.loads(there("retry", second, "--set", "max_steps=2", "--json")[1])
    assert third["retry_of"] == second
    assert there("cancel", third["id"])[0] == 0
    assert not (tmp_path / "no home").exists()
