"""KEDA's query on a real PostgreSQL: a job counts under the type that policy would choose, and not for ever."""

import random
import re

import pytest
from deploy_files import KUBERNETES, documents
from sqlalchemy import text

from celora.models.database import Database
from celora.models.jobs import accept, requests, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Job
from celora.scheduling.policy import decide
from celora.scheduling.records import Node, Waiting
from celora.settings.gpus import CATALOGUE

TYPES = {gpu.name: gpu for gpu in CATALOGUE}
GIB = 2**30


@pytest.fixture(scope="module")
def queries():
    scaled = [documents(path)[0] for path in KUBERNETES.glob("keda/*.yaml")]
    return {
        one["metadata"]["name"].removeprefix("worker-"): one["spec"]["triggers"][0]["metadata"]["query"]
        for one in scaled
        if one["kind"] == "ScaledObject"
    }


@pytest.fixture(scope="module")
def listed(queries):
    """The types of the queries' own table: memory in bytes and price, by name."""
    (first, *_) = queries.values()
    rows = re.findall(r"\('([\w-]+)', (\d+) \* 1048576::bigint, ([\d.]+)\)", first)
    return {name: (int(mib) * 2**20, float(price)) for name, mib, price in rows}


@pytest.fixture
def record(new_postgres):
    made = Database(new_postgres())
    made.migrate()
    yield made
    made.dispose()


def demand(record, queries):
    with record.session(Scope.everything) as session:
        return {name: session.scalar(text(query.replace(":", r"\:"))) for name, query in queries.items()}


def waiting(record, job_id, *, gpu="auto", memory_bytes=None, stage=Stage.TRAIN):
    spec = parse_spec({"base_model": "tiny", "dataset": "/data/rows.jsonl", "gpu": gpu})
    with record.transaction(Scope.everything) as session:
        accept.submit(session, job_id=job_id, spec=spec)
        job = session.get_one(Job, job_id)
        job.stage, job.memory_bytes = stage, memory_bytes


def test_the_list_of_types_is_the_catalogues(listed, queries):
    assert set(listed) == set(queries)
    for name, (memory_bytes, price) in listed.items():
        assert price == TYPES[name].price_per_hour
        assert 0.9 * TYPES[name].memory_bytes <= memory_bytes <= TYPES[name].memory_bytes


def test_every_waiting_job_counts_where_policy_would_send_it(record, queries, listed):
    dice = random.Random(7)  # noqa: S311  (dice with a seed)
    expected = dict.fromkeys(queries, 0)
    for number in range(60):
        gpu = dice.choice(["auto", "auto", *queries])
        memory_bytes = dice.choice([None, *(int(size * GIB) for size in (4, 15.5, 20, 22.9, 50, 79.9, 200))])
        waiting(record, f"job-{number}", gpu=gpu, memory_bytes=memory_bytes)
        job = Waiting(
            id="job", tenant="a", stage=Stage.TRAIN, gpu=gpu, priority=0, created_at=None, memory_bytes=memory_bytes
        )
        nodes = [Node(kind="gpu", gpu_type=name, memory_bytes=memory) for name, (memory, _) in listed.items()]
        for release in decide([job], nodes, [], types=TYPES).releases:
            expected[release.gpu_type] += 1
    assert demand(record, queries) == expected
    assert min(expected.values()) > 0
    assert sum(expected.values()) < 60  # 200 GiB fit nowhere


def test_a_job_counts_from_its_turn_for_a_device_to_its_end(record, queries):
    nothing = dict.fromkeys(queries, 0)
    waiting(record, "one", gpu="l4", stage=Stage.PREPARE)
    assert demand(record, queries) == nothing
    with record.transaction(Scope.everything) as session:
        session.get_one(Job, "one").stage = Stage.TRAIN
    one = nothing | {"l4": 1}
    assert demand(record, queries) == one
    with record.transaction(Scope.everything) as session:
        transitions.send(session, "one", 1, "train", queue="gpu.l4", gpu_type="l4")
    assert demand(record, queries) == one
    with record.transaction(Scope.everything) as session:
        transitions.claim(session, "one", 1, "train", worker_id="w", lease_s=90, gpu_type="l4")
    assert demand(record, queries) == one
    with record.transaction(Scope.everything) as session:
        transitions.advance(session, Claim("one", 1, "w"), "train", {})
        assert session.get_one(Job, "one").stage is Stage.EVALUATE
    assert demand(record, queries) == one
    with record.transaction(Scope.everything) as session:
        requests.request_cancel(session, "one")
        assert session.get_one(Job, "one").status is Status.CANCELLED
    assert demand(record, queries) == nothing


def test_a_paused_job_and_one_in_the_foreground_ask_for_no_worker(record, queries):
    waiting(record, "paused", gpu="t4")
    waiting(record, "pod", gpu="t4")
    with record.transaction(Scope.everything) as session:
        requests.request_pause(session, "paused")
        transitions.send(session, "pod", 1, "train", queue="run-job", gpu_type="t4")
    assert demand(record, queries) == dict.fromkeys(queries, 0)


def test_what_ran_out_of_memory_counts_under_a_larger_type(record, queries):
    waiting(record, "one", memory_bytes=4 * GIB)
    assert demand(record, queries)["t4"] == 1
    with record.transaction(Scope.everything) as session:
        session.get_one(Job, "one").least_memory_bytes = 30 * GIB
    assert demand(record, queries) == {"t4": 0, "l4": 0, "a100-80": 1, "h100": 0}
