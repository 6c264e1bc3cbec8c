import base64
import json
import zlib

import pytest
from celery import Celery
from worker_alone import message

from celora.workers.lifecycle import message_schema
from celora.workers.lifecycle.message_schema import MalformedMessageError, check_task_message


def test_what_celery_itself_sends_passes(valkey):
    """A message with every option that an application may use, as kombu wrote it into the queue."""
    import redis

    app = Celery("application", broker=valkey, backend=valkey)
    app.send_task(
        "celora.finetune", kwargs={"base_model": "x"}, queue="celora", link=app.signature("a.b"),
        link_error=app.signature("a.c"), expires=60, countdown=1, time_limit=10, soft_time_limit=5.5, priority=9,
        headers={"traceparent": "00-1"}, shadow="mine", compression="zlib",
    )  # fmt: skip
    (app.signature("celora.tick", queue="celora") | app.signature("a.d", queue="celora")).apply_async(
        headers={"x": [1, {"y": 2}]}
    )
    app.close()
    client = redis.Redis.from_url(valkey)
    lines = [line for key in client.keys("celora*") for line in client.lrange(key, 0, -1)]
    client.close()
    assert len(lines) == 2
    for line in lines:
        check_task_message(json.loads(line))


def test_headers_that_celery_does_not_read_pass_whatever_they_hold():
    check_task_message(message(headers={"baggage": {"a": [1]}, "5": None}))


def test_a_message_of_the_first_protocol_carries_the_same_fields_in_its_body():
    old = {"task": "celora.tick", "id": "x", "args": [], "kwargs": {}, "retries": 0, "eta": None, "expires": None}
    check_task_message({**message(body=old), "headers": {}})
    with pytest.raises(MalformedMessageError, match="timelimit"):
        check_task_message({**message(body={**old, "timelimit": "ab"}), "headers": {}})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"timelimit": "ab"}, "timelimit"),
        ({"timelimit": [True, None]}, "timelimit"),
        ({"task": {"a": 1}}, "task"),
        ({"id": "a\nb"}, "id"),
        ({"eta": "9999-12-31T23:59:59+00:00"}, "eta"),
        ({"retries": -1}, "retries"),
    ],
)
def test_the_fault_names_the_field_and_never_the_value(changes, field):
    with pytest.raises(MalformedMessageError, match=f"^{field}") as refusal:
        check_task_message(message(headers=changes))
    assert "9999" not in str(refusal.value)


def test_a_compressed_body_may_not_grow_above_the_limit(monkeypatch):
    monkeypatch.setattr(message_schema, "MOST_BYTES", 1000)
    bomb = {**message(headers={"compression": "application/x-gzip"})}
    bomb["body"] = base64.b64encode(zlib.compress(b" " * 100_000 + b"[[],{},null]")).decode()
    with pytest.raises(MalformedMessageError, match="more than 1000 bytes"):
        check_task_message(bomb)


@pytest.mark.parametrize("task", ["celery.starmap", "celery.map", "celery.chunks", "celery.chord_unlock"])
def test_celerys_own_tasks_which_call_others_are_not_taken(task):
    with pytest.raises(MalformedMessageError, match="one of Celery's own"):
        check_task_message(message(task))
    old = message(body={"task": task, "id": "x", "args": [], "kwargs": {}})
    old["headers"] = {}
    with pytest.raises(MalformedMessageError, match="one of Celery's own"):
        check_task_message(old)
