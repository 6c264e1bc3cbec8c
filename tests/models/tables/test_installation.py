"""A worker's row has defaults that let it work, and sizes beyond 32 bits."""

from celora.models.scope.scope import Scope
from celora.models.tables import SafeBatch, Worker


def test_a_new_worker_is_trusted(record):
    record.register("h100-0@here", host="here", kind="gpu", pid=1, memory_bytes=80 * 2**30)
    with record.database.session(Scope.everything) as session:
        worker = session.get_one(Worker, "h100-0@here")
    assert (worker.health, worker.device_faults, worker.cordoned, worker.drain_asked) == ("ok", 0, False, False)
    assert (worker.memory_bytes, worker.slots, worker.queues, worker.versions) == (80 * 2**30, 1, [], {})


def test_a_safe_batch_is_known_by_base_type_and_length(database):
    key = {"base": "tiny@r", "gpu_type": "t4", "max_length": 64}
    with database.transaction(Scope.everything) as session:
        session.add(SafeBatch(**key, micro_batch=2, gradient_checkpointing=True, updated_at=database.now(session)))
    with database.session(Scope.everything) as session:
        assert session.get(SafeBatch, ("tiny@r", "t4", 64)).micro_batch == 2
        assert session.get(SafeBatch, ("tiny@r", "t4", 128)) is None
