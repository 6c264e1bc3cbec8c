"""Ten jobs of a server of ours are imported into a fresh installation: same bases, same files, a right table."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from moved_job import Moved
from openai import OpenAI

from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import File, Job
from celora.services.openai import files
from celora.services.tenants import keys
from celora.settings.settings import get_settings
from celora.workers.node.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MODEL = "gpt-4o-mini-2024-07-18"


def row(number, answer):
    asked = {"role": "user", "content": f"item {number}"}
    return json.dumps({"messages": [asked, {"role": "assistant", "content": answer}]}) + "\n"


def rows_of(*answers):
    return "".join(row(number, answer) for number, answer in enumerate(answers)).encode()


CONTENTS = {"first.jsonl": rows_of(*["red", "blue"] * 6), "second.jsonl": rows_of(*["green", "grey"] * 6),
            "held.jsonl": rows_of("white", "black")}  # fmt: skip


@pytest.fixture
def ten(record, monkeypatch, base):
    """Makes ten jobs on a server: eight that succeeded, one that failed, one that waits; returns their ids in order."""
    monkeypatch.setenv("CELORA_MODEL_ALIASES", json.dumps({MODEL: str(base)}))
    monkeypatch.setattr(files.messages, "attempt", lambda send, what, **_: False)
    get_settings.cache_clear()

    def make(url, key):
        made, sent = [], {}
        with OpenAI(base_url=f"{url}/v1", api_key=key) as client:
            for name, content in CONTENTS.items():
                sent[name] = client.files.create(file=(name, content), purpose="fine-tune").id
            for number in range(10):
                files_of = {"training_file": sent["second.jsonl" if number % 2 else "first.jsonl"]}
                files_of |= {"validation_file": sent["held.jsonl"]} if number % 2 else {}
                asked = {"suffix": f"bot{number}", "seed": number, "metadata": {"number": str(number)}}
                asked |= {"hyperparameters": {"n_epochs": 2}}
                made.append(client.fine_tuning.jobs.create(model=MODEL, **files_of, **asked).id)
        for job_id in made[:8]:
            Moved(record, job_id).complete()
        failed = Moved(record, made[8])
        failed.begin("prepare")
        failed.fail("bad_data", "line 1 is bad.")
        return made

    return make


def imported(url, key, home, out, *words):
    """Run the import into another installation; return its table and exit code."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELORA_")}
    environment |= {"CELORA_HOME": str(home), "OPENAI_API_KEY": key, "OMP_NUM_THREADS": "1",
                    "CELORA_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"}  # fmt: skip
    command = [sys.executable, "-m", "celora.cli", "import-openai", "--from", f"{url}/v1", "--out", out, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "before-after.json").read_text()), done.stdout


def test_ten_jobs_move_into_a_fresh_installation(ten, served, base, tmp_path):
    key, home = keys.create_key("default").key, tmp_path / "fresh"
    made = ten(served, key)
    table = tmp_path / "bases.toml"
    table.write_text(f'[bases]\n"gpt-4o-mini*" = {json.dumps(str(base))}\n')

    planned, said = imported(served, key, home, tmp_path / "plan", "--bases", table, "--limit", "3")
    assert [row["before"]["id"] for row in planned] == made[:6:-1]
    assert "--submit submits them" in said
    assert not (home / "artifacts").exists()

    rows, _ = imported(served, key, home, tmp_path / "done", "--bases", table, "--submit")
    by_id = {row["before"]["id"]: row for row in rows}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    for number, job_id in enumerate(made[:8]):
        after = by_id[job_id]["after"]
        assert (after["base"], after["rows"], by_id[job_id]["failed"]) == (str(base), 12, False)
        assert after["files"]["train"]["sha256"] == hashes["second.jsonl" if number % 2 else "first.jsonl"]
        assert ("eval" in after["files"]) == bool(number % 2)
        assert after["cost"] > 0
        assert after["seconds"] > 0
    assert [by_id[job_id]["after"]["remark"] for job_id in made[8:]] == [
        "its status there is failed", "its status there is validating_files",
    ]  # fmt: skip

    again, _ = imported(served, key, home, tmp_path / "again", "--bases", table, "--submit")
    assert [row["after"]["job_id"] for row in again] == [row["after"]["job_id"] for row in rows]
    database = Database(f"sqlite:///{home}/celora.db")
    with database.session(Scope.everything) as session:
        jobs, kept = {job.id: job.spec for job in session.query(Job)}, list(session.query(File))
    database.dispose()
    assert {file.sha256 for file in kept} == set(hashes.values())
    assert len(kept) == 3
    assert set(jobs) == {by_id[job_id]["after"]["job_id"] for job_id in made[:8]}
    spec = jobs[by_id[made[1]]["after"]["job_id"]]
    wanted = {"base_model": str(base), "epochs": 2, "seed": 1, "suffix": "bot1",
              "metadata": {"number": "1", "moved_from": made[1]}}  # fmt: skip
    assert {name: spec[name] for name in wanted} == wanted
    assert hashes["held.jsonl"] in spec["eval_dataset"]
