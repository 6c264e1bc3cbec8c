"""Requests that schemathesis generates from the API's own description, over a real socket.

No answer is a fault of the server, and none has a status or a form that the description does not name. The tool lives
in an environment of its own.
"""

import os
import subprocess

import pytest
from client_environment import install
from served_api import as_command

from celora.services.tenants import keys
from celora.settings.settings import get_settings
from celora.workers.node.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the tool is installed first
WANTED = "schemathesis==4.32.5"
CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance"
LONGEST_S = 40
"""Seconds of the generated requests; a slower machine makes fewer of them."""


@pytest.fixture(scope="module")
def python_with_tool():
    return install(WANTED)


@pytest.fixture
def served(record, monkeypatch):
    """The URL of an API of this home; no broker answers there."""
    monkeypatch.setenv("CELORA_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    get_settings.cache_clear()
    with as_command() as (port, _):
        yield f"http://127.0.0.1:{port}"


def test_generated_requests_are_answered_as_the_description_says(python_with_tool, served, tmp_path):
    key = keys.create_key("default", scopes=["read", "submit", "admin"]).key
    options = ["--phases", "fuzzing", "--max-examples", "5", "--max-time", str(LONGEST_S), "--seed", "1"]
    options += ["--exclude-path", "/v1/celora/key/rotate"]  # it would end the key of all other requests
    options += ["--checks", CHECKS, "--generation-database", "none", "-H", f"authorization: Bearer {key}", "--no-color"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CELORA_", "PYTHON"))}
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [python_with_tool, "-c", program, "run", f"{served}/openapi.json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
