"""The app's configuration: each deviation that keeps long jobs safe, and every task in its place."""

import ast
from pathlib import Path

import pytest
from celery import Celery

from celora.settings.settings import load_settings
from celora.workers import queues
from celora.workers.celery import EXPIRES_S, FALLBACK_BROKER, TASKS, App, app, configuration
from celora.workers.lifecycle.beat import Beat

ROOT = Path(__file__).parents[2]


@pytest.fixture
def configured(home):
    return lambda **settings: configuration(load_settings(running=False, **settings))


def test_the_settings_that_keep_long_jobs_safe_are_in_force(configured):
    settings = configured()
    assert settings["task_acks_late"] is False
    assert settings["task_reject_on_worker_lost"] is False
    assert settings["worker_disable_prefetch"] is True
    assert settings["worker_cancel_long_running_tasks_on_connection_loss"] is False
    assert settings["accept_content"] == settings["result_accept_content"] == ["json"]
    transport = settings["broker_transport_options"]
    assert {transport[name] for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key")} == {
        "celora.unacked",
        "celora.unacked_index",
        "celora.unacked_mutex",
    }
    assert app.conf.task_default_queue == "celery"


@pytest.mark.parametrize(
    ("given", "broker", "results"),
    [
        ({}, FALLBACK_BROKER, FALLBACK_BROKER),
        ({"broker_url": "redis://host:7000/1"}, "redis://host:7000/1", "redis://host:7000/1"),
        ({"broker_url": "redis://a", "result_backend": "redis://b"}, "redis://a", "redis://b"),
    ],
)
def test_results_go_to_the_broker_unless_another_place_is_set(configured, given, broker, results):
    made = configured(**given)
    assert (made["broker_url"], made["result_backend"]) == (broker, results)


def test_settings_reach_celery(configured):
    made = configured(visibility_timeout_s=77, result_expires_s=88, tick_s=5, reaper_s=6)
    assert made["broker_transport_options"]["visibility_timeout"] == 77
    assert made["result_expires"] == 88
    beat = {name: entry["schedule"] for name, entry in made["beat_schedule"].items()}
    assert beat == {"tick": 5, "slots": 5, "champions": 5, "notify": 5, "reap": 6, "sweep": 3600}


def test_what_beat_sends_is_a_task_for_the_control_worker_and_expires(configured):
    app.loader.import_default_modules()
    for name, entry in configured()["beat_schedule"].items():
        assert entry["task"] == f"celora.{name}"
        assert entry["task"] in app.tasks
        assert entry["options"] == {"queue": queues.ENTRY, "expires": EXPIRES_S}


def test_a_new_gpu_type_has_its_queue(configured):
    made = configured(gpus={"z1": {"match": ["z1"], "memory_gib": 12}})
    assert "gpu.z1" in {queue.name for queue in made["task_queues"]}


@pytest.mark.parametrize(
    ("task", "queue"), [("celora.prepare", "prep"), ("celora.finetune", "celora"), ("celora.tick", "celora")]
)
def test_a_task_is_sent_to_its_queue(task, queue):
    assert app.amqp.router.route({}, task)["queue"].name == queue


def test_a_task_of_somebody_else_is_not_routed():
    assert app.amqp.router.route({}, "shop.send_mail")["queue"].name == "celery"


def test_the_list_names_every_module_that_holds_a_task():
    holding = set()
    for path in (ROOT / "tasks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = [each for each in getattr(node, "decorator_list", ()) if isinstance(each, ast.Call)]
            if any(getattr(each.func, "id", "") == "task" for each in called):
                holding.add(path.stem)
    assert holding == set(TASKS)
    assert len(TASKS) == len(set(TASKS))


def test_beat_is_ours():
    assert issubclass(App("other", set_as_current=False).Beat, Beat)
    assert not issubclass(Celery("plain", set_as_current=False).Beat, Beat)
