"""What Flower's configuration says of a task: the record's words, also where events were lost or the record is away."""

import runpy
from types import SimpleNamespace

import pytest

from celora.models.jobs import accept, progress, requests, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage
from celora.models.tables import Job
from celora.settings.settings import get_settings
from celora.workers.node.flower_process import CONFIG

SPEC = {"base_model": "tiny", "dataset": "/data/train.jsonl", "tenant": "acme", "suffix": "bot"}


@pytest.fixture
def config(home, database, monkeypatch):
    """The configuration as Flower executes it, reading the test's own record, without its patches to Flower."""
    events = pytest.importorskip("flower.events")
    api, pages = pytest.importorskip("flower.api"), pytest.importorskip("flower.views.tasks")
    monkeypatch.setattr(events.EventsState, "event", lambda _state, event: event)
    monkeypatch.setattr(api.BaseApiHandler, "write_error", api.BaseApiHandler.write_error)
    workers = pytest.importorskip("flower.views.workers")
    monkeypatch.setattr(workers.WorkerView, "render_string", shown_by_flower)
    monkeypatch.setattr(pages, "TASK_COLUMNS", dict(pages.TASK_COLUMNS))
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("CELORA_FLOWER_AUTH", "me:secret")
    get_settings.cache_clear()
    found = runpy.run_path(str(CONFIG))
    found["take"] = events.EventsState.event
    found["page"] = workers.WorkerView.render_string
    return found


def shown_by_flower(view, template, *, read_only=False, **_facts):
    """A page as Flower's own template makes it, as far as it matters here."""
    buttons = b"" if read_only else b'<button id="worker-shutdown">Shut Down</button>'
    return b'<header><h1 id="workername">control@here</h1></header>' + buttons


def test_the_page_of_a_worker_has_no_buttons_that_are_refused_and_says_why(config):
    page = config["page"](None, "worker.html", read_only=False)
    assert b"worker-shutdown" not in page
    assert page.startswith(b'<header><h1 id="workername">control@here</h1>\n      <p')
    assert b"celora drain" in page
    assert b"worker-shutdown" in config["page"](None, "another.html")


def task(uuid, name, state="STARTED", **fields):
    return SimpleNamespace(uuid=uuid, name=name, state=state, args="()", kwargs="{}", result=None, **fields)


def said(config, *words, **fields):
    one = config["format_task"](task(*words, **fields))
    return one.name, one.kwargs, one.state


def submitted(database, job_id="j1"):
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id=job_id, spec=parse_spec(SPEC))


def training(database, job_id="j1", worker="cpu-0@host"):
    """Its train stage runs, at step 12 of 60."""
    submitted(database, job_id)
    with database.transaction(Scope.everything) as session:
        transitions.send(session, job_id, 1, Stage.PREPARE, queue="prep", gpu_type=None)
        assert transitions.claim(session, job_id, 1, Stage.PREPARE, worker_id="prep@host", lease_s=90)
        prepared = {"base": {"name": "tiny", "revision": "r1"}, "prepared": {}}
        assert transitions.advance(session, Claim(job_id, 1, "prep@host"), Stage.PREPARE, prepared)
        transitions.send(session, job_id, 1, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
        assert transitions.claim(session, job_id, 1, Stage.TRAIN, worker_id=worker, lease_s=90, gpu_type="cpu")
        assert progress.record_progress(session, Claim(job_id, 1, worker), {"step": 12, "steps": 60})


def test_a_running_job_is_told_in_words(config, database):
    training(database)
    words = "train, attempt 1 on cpu · step 12 of 60 · tenant acme · job j1"
    assert said(config, "j1.train.1.2", "celora.train") == ("celora.train", words, "STARTED")
    assert said(config, "j1", "celora.finetune") == ("celora.finetune", words, "STARTED")
    prepare = config["format_task"](task("j1.prepare.1.1", "celora.prepare", "SUCCESS"))
    assert (prepare.args, prepare.kwargs) == ("acme", "prepare, attempt 1 · tenant acme · job j1")


def test_a_task_whose_beginning_flower_missed_has_its_name_all_the_same(config, database):
    training(database)
    assert said(config, "j1", None)[0] == "celora.finetune"
    assert said(config, "j1.train.1.2", None)[0] == "celora.train"


def test_a_job_that_waits_says_for_what(config, database):
    submitted(database)
    with database.transaction(Scope.everything) as session:
        session.get(Job, "j1").wait_reason = "every slot of l4 is taken"
    words = "pending: prepare, attempt 1 for any GPU · every slot of l4 is taken · tenant acme · job j1"
    assert said(config, "j1", "celora.finetune") == ("celora.finetune", words, "STARTED")


def test_what_the_record_knows_to_be_over_is_not_shown_as_running(config, database):
    """The event of its end was lost: a broker that was away, a worker that was killed."""
    training(database)
    with database.transaction(Scope.everything) as session:
        assert transitions.release(session, Claim("j1", 1, "cpu-0@host"), Reason.PREEMPTED, resume_step=12)
    assert said(config, "j1.prepare.1.1", "celora.prepare")[1:] == (
        "prepare, attempt 1 · tenant acme · job j1",
        "SUCCESS",
    )
    _, words, state = said(config, "j1.train.1.2", "celora.train")
    assert (words, state) == (
        "train, attempt 1 on cpu · released at step 12 · tenant acme · job j1",
        "RETRY",
    )
    with database.transaction(Scope.everything) as session:
        assert requests.request_cancel(session, "j1") == "cancelled"
    config["_record"]._known.clear()
    _, words, state = said(config, "j1", "celora.finetune")
    assert (words, state) == ("cancelled, attempt 2 · step 12 of 60 · tenant acme · job j1", "REVOKED")


def test_a_job_that_is_over_is_never_told_as_running_from_the_cache(config, database):
    training(database)
    assert said(config, "j1", "celora.finetune")[1].startswith("train, attempt 1 on cpu")
    with database.transaction(Scope.everything) as session:
        requests.request_cancel(session, "j1")
        assert transitions.finish_cancel(session, Claim("j1", 1, "cpu-0@host", 0.0))
    assert said(config, "j1", "celora.finetune", "REVOKED")[1].startswith("cancelled, attempt 1 on cpu")


def test_without_the_record_it_says_so_and_nothing_wrong_and_asks_again_later(config, database, monkeypatch):
    training(database)
    asked = []

    def away(job_id):
        asked.append(job_id)
        raise config["CeloraError"]("away")

    monkeypatch.setitem(config["format_task"].__globals__, "_read", away)
    words = "job j1 · the record cannot be read now"
    for _ in range(20):
        assert said(config, "j1.train.1.2", "celora.train") == ("celora.train", words, "STARTED")
    assert len(asked) == 1


def test_other_tasks_stay_what_they_are_and_fit_the_table(config, database):
    name, kwargs, state = said(config, "x", "elsewhere.mail", "SUCCESS")
    assert (name, kwargs, state) == ("elsewhere.mail", "{}", "SUCCESS")
    long = task("y", "elsewhere.mail")
    long.kwargs = "x" * 500
    assert len(config["format_task"](long).kwargs) == 161


def test_the_cache_is_bounded(config, database):
    record = config["_record"]
    limit = config["_KEPT"]
    record._known.update({f"old-{number}": (0.0, None) for number in range(limit)})
    record.job("new", ended=False)
    assert len(record._known) == limit
    assert "new" in record._known


def test_no_secret_of_a_message_gets_as_far_as_flowers_memory(config):
    from flower.events import EventsState

    sent = {"type": "task-received", "uuid": "j1", "name": "celora.finetune", "kwargs": "{'hf_token': 'canary-1'}"}
    assert "canary" not in str(EventsState.event(None, sent))
    assert EventsState.event(None, sent)["kwargs"] == "{'job_id': 'j1'}"
    failed = {"type": "task-failed", "uuid": "j1", "exception": "no https://me:canary-22@example.com/x"}
    assert "canary" not in str(EventsState.event(None, failed))


@pytest.mark.slow
def test_its_options_are_those_that_settings_say(home, tmp_path, monkeypatch):
    """In a process of its own, since Flower's options are one for a process."""
    import os
    import subprocess
    import sys

    code = (
        "from tornado.options import options\n"
        "import flower.options\n"
        f"options.parse_config_file({str(CONFIG)!r})\n"
        "print(options.address, *options.basic_auth, options.persistent, options.db, options.read_only)\n"
    )
    (tmp_path / "celora.toml").write_text("flower_read_only = true\n")
    environment = {**os.environ, "CELORA_HOME": str(tmp_path), "CELORA_FLOWER_AUTH": "me:secret"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["127.0.0.1", "me:secret", "True", str(tmp_path / "flower" / "state"), "True"]
