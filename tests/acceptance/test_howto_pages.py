"""The how-to pages, every command of theirs that is marked runnable, on one installation and a tiny base.

What a page calls a model of yours or a file of yours is the tests' tiny base and its rows; the numbers of steps are
smaller. All pages are followed in one folder.
"""

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pages import blocks, run

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FOLLOWED = ["index", "howto/python", "howto/foreign-app", "howto/command-line", "howto/base-model", "howto/serve",
            "schedules", "howto/postgresql-and-s3"]  # fmt: skip
ELSEWHERE = {"champions": "tests/acceptance/test_champions_page.py", "howto/gpu-machine": "benchmarks/second_box.py"}
"""Pages that something else follows."""


def test_every_page_with_runnable_blocks_is_followed_by_something():
    found = {
        path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md") if blocks(path.read_text())
    }
    assert found == {*FOLLOWED, *ELSEWHERE}
    assert [follower for follower in ELSEWHERE.values() if not (ROOT / follower).is_file()] == []


class Reader:
    """Follows pages in one folder, on one installation."""

    def __init__(self, running, folder, base, rows):
        self.running, self.folder = running, folder
        self.home = running.settings.home
        self._ours = {
            "smollm2-135m-instruct": str(base),
            "/models/our-llama": str(base),
            "/data/train.jsonl": str(rows),
            "my-first": "order-bot-1",
            '"tenant": "shop"': '"tenant": "default"',  # the id is one job of one tenant
            "--max-steps 24": "--max-steps 2",
            "--max-steps 500": "--max-steps 50000",  # the page pauses it before its end
            '"max_steps": 24': '"max_steps": 2, "eval_max_new_tokens": 4',
            "max_steps: 24": "max_steps: 2\neval_max_new_tokens: 4",
            "--max-new-tokens 24": "--max-new-tokens 4",
            "--eval-max-new-tokens 24": "--eval-max-new-tokens 4",
        }

    def follow(self, name, **more):
        """What each block of a page printed, in its order."""
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        for words, ours in self._ours.items():
            page = page.replace(words, ours)
        urls = {"CELORA_BROKER_URL": self.running.settings.broker_url,
                "CELORA_RESULT_BACKEND": self.running.settings.broker_url}  # fmt: skip
        printed = [said for _, said in run(page, self.home, folder=self.folder, limit_s=120, **{**urls, **more})]
        assert len(printed) == page.count(" runnable\n")
        return printed


@pytest.fixture(scope="module")
def reader(postgres_url, running, base, rows, tmp_path_factory):
    return Reader(running, tmp_path_factory.mktemp("reader"), base, rows)


@pytest.fixture(scope="module")
def followed(reader):
    """What the pages printed, by name: two readers at the same time, each from page to page.

    Both submit under one id, which is one job: whoever comes second gets the first one's result.
    """
    ways = [
        ["howto/python", "howto/foreign-app", "howto/command-line", "schedules"],
        ["index", "howto/base-model", "howto/serve"],
    ]
    with ThreadPoolExecutor() as readers:
        futures = [readers.submit(lambda way=way: {name: reader.follow(name) for name in way}) for way in ways]
    return futures[0].result() | futures[1].result()


def test_the_quick_start(followed, reader):
    _, submitted, pulled = followed["index"]
    assert "is completed" in submitted
    assert "PeftModel.from_pretrained" in pulled
    assert (reader.folder / "my-adapter" / "adapter_model.safetensors").is_file()


def test_from_python(followed):
    summary, added = followed["howto/python"]
    assert re.search(r"\ncompleted file://.*/published\n\{.*eval_loss", summary)
    assert added.split() == ["support-faq", "1", "48"]


def test_from_an_app_without_celora(followed):
    (printed,) = followed["howto/foreign-app"]
    assert printed.splitlines()[-1] == "completed"


def test_from_the_command_line(followed, reader):
    _, shown, status, ended = followed["howto/command-line"]
    assert "by-hand" in shown
    assert "paus" in shown
    assert status.strip() in ("pending", "queued", "running")
    assert ended
    assert reader.running.wait("by-hand", lambda job: job["status"] == "cancelled")


def test_an_own_base_model(followed):
    (kept,) = followed["howto/base-model"]
    assert "is here: " in kept


def test_the_adapter_in_plain_peft(followed):
    pulled, answered = followed["howto/serve"]
    assert "PeftModel.from_pretrained" in pulled
    assert answered.endswith("\n")  # what a tiny base says after two steps may be white space alone


def test_a_schedule(followed):
    (shown,) = followed["schedules"]
    assert "weekly" in shown
    assert "Europe/Berlin" in shown


def test_the_move_to_postgresql_and_s3(followed, reader, new_postgres):
    reader.running.installation.__exit__(None, None, None)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = next(word for line in server.stderr for word in line.split() if word.startswith("http://127"))
            threading.Thread(target=server.stderr.read, daemon=True).start()
            keys = {
                "AWS_ACCESS_KEY_ID": "nobody",
                "AWS_SECRET_ACCESS_KEY": "nothing",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": address}
            make = "import fsspec; fsspec.filesystem('s3').mkdir('s3://celora')"
            subprocess.run([sys.executable, "-c", make], env=environment, check=True)
            places = {"NEW_ARTIFACT_ROOT": "s3://celora/artifacts", "AWS_ENDPOINT_URL": address, **keys}
            moved, listed = reader.follow("howto/postgresql-and-s3", NEW_DATABASE_URL=new_postgres(), **places)
        finally:
            server.kill()
    assert "rows are in postgresql" in moved
    assert "PeftModel.from_pretrained" in listed
    weights = [reader.folder / name / "adapter_model.safetensors" for name in ("my-adapter", "from-s3")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
