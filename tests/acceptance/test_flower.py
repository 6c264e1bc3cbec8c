"""Flower beside a running installation, as an operator has it: a real browser, its own buttons, what they do to jobs.

One installation for all; the browser is the machine's Chromium, and without one these tests say so.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64encode
from http.client import HTTPConnection
from urllib.parse import urlsplit

import psutil
import pytest

from celora.workers.node.flower_process import CONFIG
from celora.workers.node.node import environment

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]

LONG = {"max_steps": 5000, "save_steps": 5000, "tenant": "acme", "suffix": "support-bot"}
CANARY = "c4n4ry-0f-a-passw0rd"


class Flower:
    """A Flower as its users have it: its address and login."""

    def __init__(self, url, login):
        self.url, self.login = url, login

    def answer(self, path, *, data=None):
        """Status and text of a request with the login."""
        header = {"Authorization": "Basic " + b64encode(self.login.encode()).decode()}
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=20)
        try:
            connection.request("GET" if data is None else "POST", path, data, header)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def state(self, task_id):
        """The state of a task as Flower heard it; None if it never did."""
        status, text = self.answer(f"/api/task/info/{task_id}")
        return json.loads(text)["state"] if status == 200 else None

    def await_up(self, workers=4):
        """Until it has heard of every worker: events before that are lost on it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                status, text = self.answer("/workers?json=1")
                if status == 200 and len(json.loads(text)["data"]) == workers:
                    return self
            time.sleep(0.1)
        raise AssertionError("Flower does not hear the workers")


@pytest.fixture(scope="module")
def flower(running_with_flower):
    """The Flower that ``celora up`` started, found by the line that it prints."""
    lines = running_with_flower.installation.describe()
    found = re.search(r"Flower (http://127\.0\.0\.1:\d+)  user (\w+), password (\S+)$", "\n".join(lines), re.MULTILINE)
    return Flower(found[1], f"{found[2]}:{found[3]}").await_up()


@pytest.fixture(scope="module")
def read_only(running_with_flower, tmp_path_factory):
    """A second Flower on the same installation, that only shows."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("flower")
    settings = running_with_flower.settings
    own = {"CELORA_FLOWER_AUTH": "guest:looks-on", "CELORA_FLOWER_READ_ONLY": "1"}
    command = [sys.executable, "-m", "celery", "-A", "celora.workers", "flower", f"--conf={CONFIG}",
               f"--port={port}", "--persistent=False", f"--db={folder / 'state'}"]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment(settings), **own}, cwd=folder, stderr=log)
    try:
        yield Flower(f"http://127.0.0.1:{port}", "guest:looks-on").await_up()
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """Opens a page of a Flower, logged in, and waits until it has what it shows."""
    contexts = []

    def open_page(flower, path, until="networkidle"):
        user, _, password = flower.login.partition(":")
        context = browser.new_context(
            http_credentials={"username": user, "password": password}, viewport={"width": 1280, "height": 800}
        )
        contexts.append(context)
        page = context.new_page()
        page.goto(flower.url + path)
        page.wait_for_load_state(until)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def completed(running_with_flower, flower, spec):
    job_id = running_with_flower.send({**spec, "tenant": "acme", "suffix": "support-bot"}).id
    job = running_with_flower.wait(job_id, lambda job: job["status"] in ("completed", "failed"))
    assert job["status"] == "completed", job["error"]
    return job_id


def training(running, spec):
    """A job that trains for long, its process group, and the id of its message."""
    job_id = running.send({**spec, **LONG}).id
    running.wait(job_id, lambda job: job["stage"] == "train" and job["step"] > 3)
    groups = [pid for pid, words in running.processes() if b"celora.tuning.trainer" in words]
    assert groups
    return job_id, groups


def ended_with_its_process(running, job_id, groups):
    """The record says cancelled, nothing of the trainer is left, and no later stage ever began."""
    running.wait(job_id, lambda job: job["status"] == "cancelled")
    running.until(lambda: not [pid for pid in groups if psutil.pid_exists(pid)])
    began = [event["data"]["stage"] for event in running.events(job_id) if event["kind"] == "stage_started"]
    assert began == ["prepare", "train"]


def rows(page):
    """The task list as its reader sees it: the cells of each row."""
    page.wait_for_selector("#tasks-table tbody tr td a")
    return [row.locator("td").all_inner_texts() for row in page.locator("#tasks-table tbody tr").all()]


def test_a_jobs_tasks_are_found_under_its_id_in_words_from_the_record(completed, flower, running_with_flower, visit):
    stages = ["prepare", "train", "evaluate", "publish"]
    running_with_flower.until(lambda: flower.state(completed) == "SUCCESS")
    page = visit(flower, "/tasks")
    page.fill("#tasks-table_filter input", completed)
    page.wait_for_function("document.querySelectorAll('#tasks-table tbody tr').length == 5")
    found = rows(page)
    assert sorted(row[0] for row in found) == sorted(["celora.finetune", *(f"celora.{stage}" for stage in stages)])
    assert {(row[1], row[3]) for row in found} == {("acme", "SUCCESS")}
    words = {row[0]: row[2] for row in found}
    assert words["celora.finetune"].startswith("completed, attempt 1 on cpu · step 4 of 4 · tenant acme")
    assert words["celora.train"].startswith("train, attempt 1 on cpu · step 4 of 4 · tenant acme")
    assert words["celora.prepare"].startswith("prepare, attempt 1 · tenant acme")
    assert all(row[7].startswith(completed) for row in found)
    page.get_by_title(completed, exact=True).click()
    page.wait_for_selector("#task-page")
    told = page.inner_text("#task-page")
    for part in (completed, "support-bot", "tenant acme", "completed, attempt 1 on cpu", "step 4 of 4", "SUCCESS"):
        assert part in told, part


def test_terminating_a_job_in_its_page_cancels_it(running_with_flower, spec, flower, visit):
    job_id, groups = training(running_with_flower, spec)
    running_with_flower.until(lambda: flower.state(job_id) == "STARTED")
    page = visit(flower, f"/task/{job_id}")
    told = page.inner_text("#task-page")
    assert re.search(r"train, attempt 1 on cpu · step \d+ of 5000 · tenant acme", told), told
    page.click("#task-terminate")
    page.get_by_text(f"Revoked '{job_id}'").wait_for()
    ended_with_its_process(running_with_flower, job_id, groups)
    running_with_flower.until(lambda: flower.state(job_id) == "REVOKED")
    train = next(one for one in json.loads(flower.answer("/api/tasks")[1]) if one.startswith(f"{job_id}.train."))
    running_with_flower.until(lambda: flower.state(train) == "REVOKED")
    page.reload()
    assert "cancelled, attempt 1 on cpu" in page.inner_text("#task-page")
    assert page.locator("#task-terminate").count() == 0


def test_one_that_only_shows_refuses_and_terminating_a_stage_cancels_its_job(
    running_with_flower, spec, flower, read_only, visit
):
    job_id, groups = training(running_with_flower, spec)
    running_with_flower.until(lambda: read_only.state(job_id) == "STARTED")
    page = visit(read_only, f"/task/{job_id}")
    running_with_flower.until(lambda: page.reload() and "train, attempt 1 on cpu" in page.inner_text("#task-page"))
    assert page.locator("button.btn-danger").count() == 0
    status, text = read_only.answer(f"/api/task/revoke/{job_id}", data=b"terminate=true")
    assert (status, "Read only" in text) == (403, True)
    assert running_with_flower.job(job_id)["cancel_requested"] is False

    page = visit(flower, "/tasks?name=celora.train&state=STARTED")
    (row,) = [row for row in rows(page) if row[7].startswith(job_id)]
    page.goto(f"{flower.url}/task/{row[7]}")
    page.click("#task-terminate")
    ended_with_its_process(running_with_flower, job_id, groups)
    running_with_flower.until(lambda: flower.state(row[7]) == "REVOKED")


def test_a_failed_job_is_shown_as_failed_with_its_reason(running_with_flower, spec, tmp_path, flower, visit):
    (tmp_path / "rows.jsonl").write_text('{"nothing": "to train on"}\n')
    job_id = running_with_flower.send({**spec, "dataset": str(tmp_path / "rows.jsonl")}).id
    job = running_with_flower.wait(job_id, lambda job: job["status"] == "failed")
    running_with_flower.until(lambda: flower.state(job_id) == "FAILURE")
    told = visit(flower, f"/task/{job_id}").inner_text("#task-page")
    assert f"failed ({job['error']['code']}) in prepare" in told
    assert job["error"]["message"] in told


def test_the_page_of_a_worker_has_no_button_that_its_worker_refuses(flower, visit):
    name = next(worker["hostname"] for worker in json.loads(flower.answer("/workers?json=1")[1])["data"])
    page = visit(flower, f"/worker/{name}", until="load")
    assert page.locator("#workername").inner_text() == name
    assert "celora drain" in page.locator("#celora-refuses").inner_text()
    for button in ("shutdown", "pool-restart", "pool-grow", "pool-shrink", "pool-autoscale", "refresh"):
        assert page.locator(f"#worker-{button}").count() == 0, button
    for text in ("Grow", "Shrink", "Apply", "Cancel Consumer", "Add Consumer"):
        assert page.get_by_role("button", name=text).count() == 0, text


def test_no_page_and_no_answer_tells_a_secret_or_a_worker_that_never_was(
    completed, running_with_flower, spec, flower, visit
):
    """The broker's password, Flower's own login, and one that somebody wrote into a job's dataset."""
    refused = running_with_flower.send({**spec, "dataset": f"https://me:{CANARY}@example.com/rows.jsonl"}).id
    running_with_flower.until(lambda: flower.state(refused) == "FAILURE")
    settings = running_with_flower.settings
    passwords = [urlsplit(url).password for url in (settings.broker_url, settings.broker)]
    workers = [worker["hostname"] for worker in json.loads(flower.answer("/workers?json=1")[1])["data"]]
    assert {name.partition("@")[0] for name in workers} == {"control", "prep", "cpu-0", "cpu-1"}
    pages = [
        "/",
        "/tasks",
        "/broker",
        f"/task/{completed}",
        f"/task/{refused}",
        *(f"/worker/{name}" for name in workers if name.startswith("control")),
    ]
    seen = {path: visit(flower, path, until="load").content() for path in pages}
    apis = ["/api/tasks", "/api/workers", "/api/queues/length", f"/api/task/info/{refused}", "/metrics"]
    seen |= {path: flower.answer(path)[1] for path in apis}
    told = [(path, secret) for path, text in seen.items()
            for secret in (*passwords, flower.login.split(":")[1], CANARY) if secret in text]  # fmt: skip
    assert told == []
    page = visit(flower, "/", until="load")
    page.wait_for_selector("#workers-table tbody tr td a")
    assert page.locator("#workers-table tbody tr").count() == 4
