"""Malformed messages in the queue of a control worker: lines that are no JSON, wrong fields, and seeded mutations."""

import base64
import json
import os
import pickle
import random
from copy import deepcopy

from hostile.attack import Attempt, kind
from worker_alone import WorkerAlone, message

from celora.models.scope.scope import Scope

LINES = {
    "bytes that are no text": b"\xff\xfe not json",
    "a number": b"5",
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "a word": b'"x"',
    "deep": b"[" * 100_000,
    "nothing in it": json.dumps({"headers": {}, "properties": {}}).encode(),
}


class Touch:
    """An object whose pickle starts a program."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def as_body(data):
    """A message with this body."""
    return {**message(), "body": base64.b64encode(data).decode()}


MALFORMED = {
    "no task": message(headers={"task": None}),
    "a task that is an object": message({"a": 1}),
    "no id": message(headers={"id": None}),
    "an id that is a list": message(headers={"id": [1]}),
    "time limits that are words": message(headers={"timelimit": "ab"}),
    "time limits that are objects": message(headers={"timelimit": [{}, {}]}),
    "a time that is none": message(headers={"eta": "zzz"}),
    "a time at the end of the calendar": message(headers={"eta": "9999-12-31T23:59:59+00:00"}),
    "an expiry that is an object": message(headers={"expires": {"a": 1}}),
    "an expiry that is minus infinity": message(headers={"expires": -1e308}),
    "retries that are a word": message(headers={"retries": "x"}),
    "stamps that are numbers": message(headers={"stamped_headers": 5, "stamps": 7}),
    "a root that is an object": message(headers={"root_id": {}, "parent_id": []}),
    "callbacks that are a word": message(embed={"callbacks": "x"}),
    "a chain of numbers": message(embed={"chain": [5]}),
    "a chord that is a list": message(embed={"chord": [1]}),
    "a body of four": message(body=[[], {}, {}, {}]),
    "arguments that are an object": message(body=[{"a": 1}, [1], [2]]),
    "Celery's own task that calls another": message(
        "celery.starmap", body=[[{"task": "celora.train", "args": [], "kwargs": {}}, [["j", 1]]], {}, {}]
    ),
    "pickle": {**as_body(pickle.dumps([[], {}, Touch()])), "content-type": "application/x-python-serialize"},
    "pickle that calls itself JSON": as_body(pickle.dumps([[], {}, Touch()])),
    "YAML": {**as_body(b"!!python/object/apply:os.system ['touch pwned']"), "content-type": "application/x-yaml"},
    "deep JSON in the body": as_body(b"[" * 100_000),
    "a compression that is not bounded": message(headers={"compression": "application/x-bz2"}),
    "delivery information that is a word": message(properties={"delivery_info": "x"}),
    "a priority that is a word": message(properties={"priority": "high"}),
    "a delivery tag that is an object": message(properties={"delivery_tag": {"a": 1}}),
    "a reply queue that is an object": message(properties={"reply_to": {"a": 1}}),
    "an encoding that is unknown": message(properties={"body_encoding": "rot13"}),
}
"""Messages that a worker drops before Celery sees them."""

SPEC = {"base_model": "x", "dataset": "rows.jsonl"}


def callback(task="a.b", **options):
    """A signature as Celery writes it."""
    return {"task": task, "args": [], "kwargs": {}, "options": options, "subtask_type": None, "immutable": True}


CALLBACKS = {
    "a word": "x",
    "numbers": [1, 2],
    "a task that is a number": [{"task": 5}],
    "a chord of numbers": [
        {**callback("celery.chord"), "kwargs": {"header": 1, "body": 2}, "subtask_type": "chord"},
    ],
    "a group of a number": [{**callback("celery.group"), "kwargs": {"tasks": 5}, "subtask_type": "group"}],
    "a nested chord": [{**callback(queue={"a": 1}), "args": [[]] * 3, "subtask_type": "chord"}],
    "pickle": [callback("x.y", serializer="pickle", exchange="celora", routing_key="celora", queue="celora")],
    "options of no type": [callback("celora.tick", countdown="x", eta="y", expires=[], compression="nope", headers=5)],
    "another connection": [callback("celora.tick", connection="redis://127.0.0.1:1/0", producer=5, publisher="x")],
}
"""What a caller may hang on a job that no worker can call; sent with a job that fails at once."""

VALUES = (
    *(None, True, 0, -1, 1.5, 10**400, -1e308, "", "x", "ab", "\x00", "a" * 300, "9999-12-31T23:59:59+00:00"),
    *([], [1], ["a", "b"], {}, {"a": 1}, [{}, {}], [[]], [0.0001, "x"], {"a": {"b": []}}),
)
TASKS = (
    "celora.tick",
    "celora.reap",
    "celora.finetune",
    "celora.prepare",
    "celora.train",
    "celery.chord_unlock",
    "os.system",
)


def mutated(dice):
    """A message of which one to three fields have another value, or are missing."""
    made = message(dice.choice(TASKS))
    for _ in range(dice.randint(1, 3)):
        parts = [made[part] for part in ("headers", "properties") if isinstance(made.get(part), dict)]
        place = dice.choice([*parts * 4, made])
        name = dice.choice(sorted(place) or ["task"])
        if dice.random() < 0.15:
            place.pop(name, None)
        else:
            place[name] = deepcopy(dice.choice(VALUES))  # a later change may go into it
    return made


def mutations(seed, count):
    """As many mutated messages as wanted, always the same for a seed."""
    dice = random.Random(seed)
    return [mutated(dice) for _ in range(count)]


@kind("messages", "malformed messages to a worker", minutes=2)
def messages(dice, folder):
    """Send each message alone, then in bursts; the worker lives on, has nothing in hand, and does work."""
    with WorkerAlone(folder) as worker:
        lines = [*LINES.items(), *((name, json.dumps(made)) for name, made in MALFORMED.items())]
        for name, line in lines:
            yield Attempt(name, lambda line=line: is_survived(worker, [line]))
        for name, following in CALLBACKS.items():
            for place in ("callbacks", "errbacks", "chain", "chord"):
                made = message("celora.finetune", message_id=f"{place}-{name}", embed={place: following}, **SPEC)
                yield Attempt(f"{place} of {name}", lambda made=made: is_survived(worker, [json.dumps(made)]))
        number = 0
        while True:
            burst, number = [json.dumps(mutated(dice)) for _ in range(dice.choice((1, 5, 25)))], number + 1
            yield Attempt(f"burst {number}", lambda burst=burst, number=number: does_work(worker, burst, number))


def is_survived(worker, lines):
    """The worker takes these lines, acknowledges them and lives on as the same process."""
    pid = worker.process.pid
    for line in lines:
        worker.send(line)
    worker.until(worker.emptied)
    assert worker.process.pid == pid
    assert not (worker.home / "pwned").exists()


def does_work(worker, lines, number):
    """The worker survives these lines, and refuses the job that comes after them with a row in the record."""
    is_survived(worker, lines)
    job_id = f"after-{number}"
    worker.send(json.dumps(message("celora.finetune", message_id=job_id, **SPEC)))
    worker.until(lambda: status_of(worker, job_id) == "failed")


def status_of(worker, job_id):
    """A job's status in the record; None where there is no such job."""
    from celora.models.tables import Job

    with worker.database.session(Scope.everything) as session:
        job = session.get(Job, job_id)
        return job and str(job.status)
