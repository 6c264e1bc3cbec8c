"""Remote control commands of somebody who can write to the broker: refused ones, malformed ones, and seeded ones."""

from celery import Celery
from hostile.attack import Attempt, kind
from hostile.kinds.messages import VALUES
from worker_alone import WorkerAlone

REFUSED = {
    "time_limit": {"task_name": "celora.train", "hard": 2},
    "rate_limit": {"task_name": "celora.train", "rate_limit": "1/d"},
    "pool_grow": {"n": 3},
    "pool_shrink": {"n": 1},
    "pool_restart": {"modules": ["this"], "reload": True},
    "autoscale": {"max": 9, "min": 1},
    "add_consumer": {"queue": "prep"},
    "cancel_consumer": {"queue": "celora"},
    "shutdown": {},
    "terminate": {"task_id": "a", "signal": "KILL"},
    "disable_events": {},
    "election": {"id": 1, "topic": "x"},
    "hello": {"from_node": "z", "revoked": {"a": 1}},
    "revoke_by_stamped_headers": {"headers": {"a": "b"}},
    "objgraph": {"max_depth": 1, "num": 1, "type": "dict"},
    "memdump": {},
    "report": {},
}
MALFORMED = {
    "revoke": {"task_id": {"a": 1}},
    "revoke of too many": {"task_id": ["x"] * 100_000},
    "revoke with a signal that is none": {"task_id": "a", "terminate": True, "signal": "NOPE"},
    "look": {"x": 1},
    "query_task": {"ids": 5},
    "dump_tasks": {"taskinfoitems": ["__class__", "app", "backend"]},
    "conf": {"with_defaults": "yes"},
}
ANSWERED = (
    "ping",
    "stats",
    "active",
    "reserved",
    "scheduled",
    "revoked",
    "registered",
    "active_queues",
    "conf",
    "look",
)
ARGUMENTS = ("task_id", "task_name", "queue", "n", "max", "destination", "terminate", "signal", "reply_to", "self", "x")


@kind("control_commands", "remote control commands to a worker", minutes=1)
def control_commands(dice, folder):
    """Send each command; the worker has as many children as before, the same queues, and answers."""
    with WorkerAlone(folder) as worker, Celery("stranger", broker=worker.broker.url) as stranger:
        before = state_of(stranger)
        for name, arguments in {**REFUSED, **MALFORMED}.items():
            command = name.partition(" ")[0]
            yield Attempt(name, lambda c=command, a=arguments: is_unchanged(stranger, worker, before, c, a))
        while True:
            command = dice.choice([*REFUSED, *ANSWERED, "revoke", "__init__", "celora", ""])
            arguments = {dice.choice(ARGUMENTS): dice.choice(VALUES) for _ in range(dice.randint(0, 3))}
            title = f"{command} {arguments!r}"[:120]
            yield Attempt(title, lambda c=command, a=arguments: is_unchanged(stranger, worker, before, c, a))


def state_of(stranger):
    """Everything of a worker that a command might change: its queues, its children, its tasks' limits."""
    (stats,) = stranger.control.inspect(timeout=20, limit=1).stats().values()
    (queues,) = stranger.control.inspect(timeout=20, limit=1).active_queues().values()
    pool = {name: stats["pool"][name] for name in ("max-concurrency", "processes", "timeouts")}
    return pool, [queue["name"] for queue in queues], stats["pid"]


def is_unchanged(stranger, worker, before, command, arguments):
    """After this command the worker is as before."""
    stranger.control.broadcast(command, arguments=arguments)
    assert state_of(stranger) == before
    assert worker.alive()
