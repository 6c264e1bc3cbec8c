"""The dispatcher's choice, over plain records."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from celora.models.states import Stage
from celora.scheduling.policy import decide
from celora.scheduling.records import Account, Holding, Node, Waiting
from celora.settings.gpus import GIB, gpu_catalogue

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TYPES = gpu_catalogue({})


def waiting(job_id, minute=0, **fields):
    facts = {"tenant": "a", "stage": Stage.TRAIN, "gpu": "cpu", "priority": 0}
    return Waiting(id=job_id, created_at=NOON + timedelta(minutes=minute), **{**facts, **fields})


def cpu_nodes(count):
    return [Node(kind="gpu", gpu_type="cpu", memory_bytes=8 * GIB) for _ in range(count)]


def run(jobs, nodes, holdings=(), quota=None):
    accounts = {tenant: Account(max_gpus=limit) for tenant, limit in (quota or {}).items()}
    return decide(jobs, nodes, holdings, types=TYPES, accounts=accounts)


def released(decision):
    return [release.job_id for release in decision.releases]


def test_first_come_first_served_within_a_tenant():
    decision = run([waiting("late", 2), waiting("early", 1)], cpu_nodes(1))
    assert released(decision) == ["early"]
    assert decision.waits["late"].sentence() == "all 1 gpu.cpu slots are taken (1 in use); next in line"


def test_a_higher_priority_goes_first_within_its_tenant():
    assert released(run([waiting("one"), waiting("two", 1, priority=5)], cpu_nodes(1))) == ["two"]


def test_tenants_take_turns_whatever_their_numbers():
    jobs = [waiting(f"a{n}", n) for n in range(5)] + [waiting("b0", 9, tenant="b"), waiting("b1", 10, tenant="b")]
    assert released(run(jobs, cpu_nodes(4))) == ["a0", "b0", "a1", "b1"]


def test_who_holds_slots_already_waits_for_those_who_hold_none():
    jobs = [waiting("a0"), waiting("b0", 9, tenant="b")]
    decision = run(jobs, cpu_nodes(2), [Holding(tenant="a", gpu_type="cpu")])
    assert released(decision) == ["b0"]


def test_priority_does_not_buy_another_tenants_turn():
    jobs = [waiting("a0"), waiting("a1", 1), waiting("b0", 2, tenant="b", priority=-100)]
    assert released(run(jobs, cpu_nodes(2))) == ["a0", "b0"]


def test_a_recovered_job_goes_to_the_front():
    jobs = [waiting("fresh", 0, priority=100), waiting("recovered", 5, recovered=True)]
    assert released(run(jobs, cpu_nodes(1))) == ["recovered"]


def test_a_tenant_at_its_quota_waits_and_is_told_so():
    holdings = [Holding(tenant="a", gpu_type="cpu")]
    decision = run([waiting("a0")], cpu_nodes(3), holdings, {"a": 1})
    assert released(decision) == []
    assert decision.waits["a0"].sentence() == "tenant a holds all 1 of its GPU slots (max_gpus_per_tenant)"


def test_auto_takes_the_cheapest_type_whose_memory_fits():
    nodes = [
        Node(kind="gpu", gpu_type="h100", memory_bytes=80 * GIB),
        Node(kind="gpu", gpu_type="l4", memory_bytes=24 * GIB),
        Node(kind="gpu", gpu_type="t4", memory_bytes=16 * GIB),
    ]
    decision = run([waiting("j", gpu="auto", memory_bytes=20 * GIB)], nodes)
    assert decision.releases[0].gpu_type == "l4"


def test_auto_goes_to_a_dearer_type_when_the_cheap_one_is_taken():
    nodes = [
        Node(kind="gpu", gpu_type="l4", memory_bytes=24 * GIB),
        Node(kind="gpu", gpu_type="h100", memory_bytes=80 * GIB),
    ]
    decision = run([waiting("j", gpu="auto", memory_bytes=1)], nodes, [Holding(tenant="b", gpu_type="l4")])
    assert decision.releases[0].gpu_type == "h100"


def test_what_fits_nowhere_says_how_much_it_needs():
    decision = run([waiting("j", gpu="auto", memory_bytes=200 * GIB)], cpu_nodes(1))
    assert (
        decision.waits["j"].sentence() == "needs about 200.0 GiB of device memory; the largest online is cpu with 8 GiB"
    )


def test_without_workers_the_reason_says_how_to_start_one():
    decision = run([waiting("p", stage=Stage.PREPARE), waiting("t", gpu="h100"), waiting("x", gpu="auto")], [])
    assert "celora node" in decision.waits["p"].sentence()
    assert decision.waits["t"].sentence().startswith("no worker of type h100 is online")
    assert "no GPU worker is online" in decision.waits["x"].sentence()


def test_publish_needs_no_slot():
    assert released(run([waiting("j", stage=Stage.PUBLISH)], [])) == ["j"]


def test_preparing_does_not_take_a_gpu():
    nodes = [*cpu_nodes(1), Node(kind="prep", slots=2)]
    jobs = [waiting("p0", stage=Stage.PREPARE), waiting("p1", 1, stage=Stage.PREPARE), waiting("t", 2)]
    assert sorted(released(run(jobs, nodes))) == ["p0", "p1", "t"]


jobs_strategy = st.lists(
    st.builds(
        waiting,
        st.uuids().map(str),
        st.integers(0, 50),
        tenant=st.sampled_from("abc"),
        priority=st.integers(-3, 3),
        gpu=st.sampled_from(["cpu", "l4", "auto"]),
        stage=st.sampled_from([Stage.PREPARE, Stage.TRAIN]),
        recovered=st.booleans(),
        memory_bytes=st.sampled_from([None, GIB, 20 * GIB]),
    ),
    max_size=20,
)


@given(jobs_strategy, st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))
def test_never_more_than_the_slots_and_quotas_and_every_job_is_answered(jobs, cpus, l4s, limit):
    nodes = [*cpu_nodes(cpus), *(Node(kind="gpu", gpu_type="l4", memory_bytes=24 * GIB) for _ in range(l4s))]
    nodes.append(Node(kind="prep", slots=2))
    decision = run(jobs, nodes, (), dict.fromkeys("abc", limit))
    by_type = [release.gpu_type for release in decision.releases]
    assert by_type.count("cpu") <= cpus
    assert by_type.count("l4") <= l4s
    assert by_type.count(None) <= 2
    tenant = {job.id: job.tenant for job in jobs}
    for name in "abc":
        assert sum(tenant[r.job_id] == name and r.gpu_type is not None for r in decision.releases) <= limit
    assert {r.job_id for r in decision.releases} | decision.waits.keys() == {job.id for job in jobs}
    assert all(why.sentence() for why in decision.waits.values())


@given(jobs_strategy)
def test_the_choice_does_not_depend_on_the_order_of_the_rows(jobs):
    forward, backward = run(jobs, cpu_nodes(2)), run(list(reversed(jobs)), cpu_nodes(2))
    assert forward == backward
