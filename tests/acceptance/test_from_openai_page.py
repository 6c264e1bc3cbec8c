"""The program of the page for those who come from OpenAI, run as it stands there with the official client."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.services.tenants import keys
from celora.settings.settings import get_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "from-openai.md"
MODEL = "gpt-4o-mini-2024-07-18"
ROW = {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1", "weight": 1}]}


@pytest.fixture
def follow(record, monkeypatch, tmp_path):
    """Runs a program beside a file of rows, and returns the job that it made."""
    monkeypatch.setenv("CELORA_MODEL_ALIASES", json.dumps({MODEL: "smollm2-135m-instruct"}))
    get_settings.cache_clear()
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(ROW)}\n" * 12, encoding="utf-8")

    def run(program, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELORA_", "OPENAI_"))}
        command = [sys.executable, "-c", f"{program}\nprint(job.id)"]
        done = subprocess.run(command, env=kept | variables, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with record.session(Scope.everything) as session:
            return session.get_one(Job, done.stdout.split()[-1])

    return run


def test_the_five_lines_are_enough_and_with_an_alias_and_two_variables_none_is_needed(follow, served):
    key = keys.create_key("team").key
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    ours = program.replace("https://celora.example", served).replace("celora_…", key).replace(": 16", ": 8")
    job = follow(ours)
    assert (job.tenant, job.spec["base_model"], job.spec["rank"]) == ("team", "smollm2-135m-instruct", 8)

    lines = [line for line in program.splitlines() if "base_url=" not in line and "api_key=" not in line]
    as_before = "\n".join(line for line in lines if "extra_body=" not in line).replace("smollm2-135m-instruct", MODEL)
    job = follow(as_before, OPENAI_BASE_URL=f"{served}/v1", OPENAI_API_KEY=key)
    assert (job.tenant, job.spec["base_model"]) == ("team", "smollm2-135m-instruct")
