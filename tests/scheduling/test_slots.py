"""Slots: which one a job takes, and which it leaves free for others."""

from datetime import UTC, datetime, timedelta

from celora.models.states import Stage
from celora.scheduling.explain import Code
from celora.scheduling.records import Account, Choice, Holding, Node, Release, Rules, Waiting
from celora.scheduling.slots import Slots
from celora.settings.gpus import GIB, gpu_catalogue

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
TYPES = gpu_catalogue({})


def node(name="", gpu_type="h100", gib=80, **facts):
    return Node(kind="gpu", gpu_type=gpu_type, memory_bytes=gib * GIB, name=name, **facts)


def job(**fields):
    facts = {"id": "j", "tenant": "a", "stage": Stage.TRAIN, "gpu": "h100", "priority": 0, "created_at": NOON}
    return Waiting(**{**facts, **fields})


def place(nodes, one, holdings=(), **rules):
    placed = Slots(nodes, holdings, TYPES, Rules(**rules), NOON).place(one)
    return (placed.gpu_type, placed.worker) if isinstance(placed, Release) else placed.code


def test_a_reserved_worker_takes_its_tenants_jobs_alone_and_first():
    nodes = [node(), node("mine@h", tenant="a")]
    assert place(nodes, job()) == ("h100", "mine@h")
    assert place(nodes, job(tenant="b")) == ("h100", "")
    assert place(nodes[1:], job(tenant="b")) is Code.RESERVED
    assert place(nodes[1:], job(tenant="b", gpu="auto")) is Code.RESERVED


def test_a_job_that_asks_for_labels_gets_a_worker_with_all_of_them():
    nodes = [node(), node("one@h", labels=frozenset({"big"})), node("two@h", labels=frozenset({"big", "fast"}))]
    assert place(nodes, job(labels="big,fast")) == ("h100", "two@h")
    assert place(nodes, job(labels="big")) == ("h100", "one@h")
    assert place(nodes, job(labels="blue")) is Code.NO_LABEL
    assert place(nodes, job()) == ("h100", "")


def test_a_job_without_labels_takes_a_labelled_worker_when_nothing_else_is_free():
    nodes = [node(), node("one@h", labels=frozenset({"big"}))]
    assert place(nodes, job(), [Holding(tenant="b", gpu_type="h100")]) == ("h100", "one@h")
    taken = [Holding(tenant="b", gpu_type="h100"), Holding(tenant="b", gpu_type="h100", worker="one@h")]
    assert place(nodes, job(), taken) is Code.BUSY


def test_a_warm_base_decides_between_equal_workers():
    nodes = [node(f"{n}@h", tenant="a", bases=frozenset({"llama"} if n == 2 else ())) for n in range(4)]
    assert place(nodes, job(base="llama")) == ("h100", "2@h")
    assert place(nodes, job(base="other")) == ("h100", "0@h")


def test_a_release_says_what_auto_took_and_which_cheaper_types_were_not_free():
    nodes, need = [node(gpu_type="l4", gib=24), node()], 4 * GIB
    taken = [Holding(tenant="b", gpu_type="l4")]
    both = ("l4", "h100")
    first = Slots(nodes, [], TYPES, Rules(), NOON).place(job(gpu="auto", memory_bytes=need))
    assert first.choice == Choice(gpu_type="l4", need_bytes=need, fitting=both, passed=())
    second = Slots(nodes, taken, TYPES, Rules(), NOON).place(job(gpu="auto", memory_bytes=need))
    assert second.choice == Choice(gpu_type="h100", need_bytes=need, fitting=both, passed=("l4",))
    assert Slots(nodes, taken, TYPES, Rules(), NOON).place(job()).choice is None


def test_auto_waits_for_the_cheaper_type_as_long_as_the_operator_wants():
    nodes = [node(gpu_type="l4", gib=24), node()]
    soon = [Holding(tenant="b", gpu_type="l4", since=NOON - timedelta(seconds=500), expected_s=800)]
    assert place(nodes, job(gpu="auto"), soon) == ("h100", "")
    assert place(nodes, job(gpu="auto"), soon, auto_wait_s=299) == ("h100", "")
    assert place(nodes, job(gpu="auto"), soon, auto_wait_s=300) is Code.BUSY
    unknown = [Holding(tenant="b", gpu_type="l4")]
    assert place(nodes, job(gpu="auto"), unknown, auto_wait_s=3000) == ("h100", "")


def test_a_slot_outside_of_the_workers_counts_for_the_tenant_alone():
    slots = Slots([node()], [Holding(tenant="a", gpu_type="h100", outside=True)], TYPES, Rules(), NOON)
    assert slots.free("h100") == 1
    assert slots.stopped("a", Account(max_gpus=1), on_gpu=True).code is Code.QUOTA
    assert slots.stopped("a", Account(max_gpus=1), on_gpu=False) is None
    assert slots.stopped("a", Account(max_gpus=2), on_gpu=True) is None


def test_the_jobs_of_a_round_count_among_those_that_a_tenant_has_worked_on():
    slots = Slots([node(), node(name="h-2")], [], TYPES, Rules(), NOON)
    account = Account(max_jobs=3, working=2)
    assert slots.place(job(), account).gpu_type == "h100"
    stopped = slots.place(job(id="second"), account)
    assert (stopped.code, stopped.facts) == (Code.MAX_JOBS, {"limit": 3, "working": 3})


def test_the_smallest_device_of_a_type_says_what_fits():
    assert place([node(gib=80), node(gib=40)], job(gpu="auto", memory_bytes=60 * GIB)) is Code.NOTHING_FITS


def test_a_job_that_asks_for_labels_is_prepared_by_any_prep_worker():
    workers = [Node(kind="prep", name="prep@h")]
    assert place(workers, job(stage=Stage.PREPARE, labels="big")) == (None, "")


def test_a_message_prefers_the_idle_worker_that_holds_the_base_and_costs_the_same_slot():
    warm = {"one@h": frozenset({"llama"}), "two@h": frozenset({"llama", "qwen"})}
    both = [node(slots=2, warm=warm)]
    slots = Slots(both, [], TYPES, Rules(), NOON)
    got = [slots.place(job(id=name, base="llama")) for name in "abc"]
    assert [(one.worker, one.direct) for one in got[:2]] == [("one@h", True), ("two@h", True)]
    assert got[2].code is Code.BUSY
    assert place(both, job(base="other")) == ("h100", "")
    running = [Holding(tenant="b", gpu_type="h100", runs_on="one@h")]
    assert place(both, job(base="llama"), running) == ("h100", "two@h")
    assert place(both, job(base="llama"), running * 2) is Code.BUSY
    assert place(both, job(), []) == ("h100", "")
