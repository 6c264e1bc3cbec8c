"""Servers, workers and files that die at the wrong moment: SIGKILL, torn files, an emptied broker, a full disk."""

import os
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path

import redis
from hostile.attack import Attempt, kind
from hostile.kinds.messages import does_work
from sqlalchemy import text
from worker_alone import WorkerAlone

from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import Tenant
from celora.workers.node.embedded_broker import EmbeddedBroker

MESSAGES, ROWS = 80, 60


@kind("processes", "kills of workers and servers, and files that were cut by a power failure", minutes=2)
def processes(dice, folder):
    """Cut the broker's file and the record's log anywhere; kill worker and server in turn and see that work goes on."""
    images = record_images(folder / "record")
    appended = appended_file(folder / "appended")
    with WorkerAlone(folder / "alone") as worker:
        number = 0
        while True:
            number += 1
            end = dice.randrange(0, appended.stat().st_size // 512 + 1) * 512
            yield Attempt(
                f"broker's file cut at byte {end}",
                lambda end=end, number=number: cut_broker(appended.parents[1], folder / f"broker-{number}", end),
            )
            end = dice.randrange(0, (images / "celora.db-wal").stat().st_size // 512 + 1) * 512
            yield Attempt(
                f"record's log cut at byte {end}",
                lambda end=end, number=number: cut_record(images, folder / f"record-{number}", end),
            )
            victim = dice.choice(("worker", "child", "server", "keys"))
            yield Attempt(f"death {number} of {victim}", lambda victim=victim, dice=dice: kill(worker, victim, dice))


def appended_file(folder):
    """The append-only file of a server that took messages and was killed."""
    server = EmbeddedBroker(folder)
    server.start()
    with redis.Redis.from_url(server.operator_url) as client:
        for number in range(MESSAGES):
            client.lpush("celora", f"{number:03d}" * 40)
    server.stop()
    (tail,) = (folder / "appendonlydir").glob("*.incr.aof")
    return tail


def cut_broker(whole, folder, end):
    """A server starts with what lies before the cut: the first messages in their order, and nothing else."""
    shutil.copytree(whole, folder)
    (tail,) = (folder / "appendonlydir").glob("*.incr.aof")
    os.truncate(tail, end)
    server = EmbeddedBroker(folder)
    server.start()
    try:
        with redis.Redis.from_url(server.operator_url) as client:
            kept = client.lrange("celora", 0, -1)
        assert kept == [f"{number:03d}".encode() * 40 for number in reversed(range(len(kept)))]
    finally:
        server.stop()
        shutil.rmtree(folder)


def record_images(folder):
    """A record and its write-ahead log, as a machine leaves them that loses its power."""
    folder.mkdir()
    record = Database(f"sqlite:///{folder}/whole.db")
    record.migrate()
    for number in range(0, ROWS, 2):
        with record.transaction(Scope.everything) as session:
            session.add_all(Tenant(name=f"t{number + one}", created_at=datetime.now(UTC)) for one in range(2))
    for end in ("", "-wal"):
        shutil.copyfile(folder / f"whole.db{end}", folder / f"celora.db{end}")
    record.dispose()
    return folder


def cut_record(images, folder, end):
    """A record opens with whole transactions: rows in pairs, the first ones."""
    folder.mkdir()
    for name in ("celora.db", "celora.db-wal"):
        shutil.copyfile(images / name, folder / name)
    os.truncate(folder / "celora.db-wal", end)
    record = Database(f"sqlite:///{folder}/celora.db")
    record.migrate()
    with record.session(Scope.everything) as session:
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        rows = session.query(Tenant).filter(Tenant.name.like("t%")).count()
    record.dispose()
    shutil.rmtree(folder)
    assert rows % 2 == 0, f"half a transaction: {rows} rows"


def kill(worker, victim, dice):
    """After the death of a process, or of all keys, the installation does work again."""
    if victim == "worker":
        os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        worker.start()
    elif victim == "child":
        children = [int(pid) for pid in child_ids(worker.process.pid)]
        os.kill(dice.choice(children), signal.SIGKILL)
    elif victim == "server":
        worker.broker._process.kill()
        worker.broker._process.wait()
        worker.broker.restart_if_ended()
        assert worker.broker.alive()
    else:
        worker.client.flushall()
    does_work(worker, [], f"{victim}-{dice.randrange(10**9)}")


def child_ids(pid):
    """The children of a process, by the kernel."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
