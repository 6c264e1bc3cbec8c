"""Properties of the policy for any queue: limits hold, no slot idles, no priority is inverted, no reading order counts.

Unusual: the expectations are computed from the slots anew, not by the functions of the policy that decide.
"""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from celora.models.states import JobClass, Stage
from celora.scheduling.explain import Code
from celora.scheduling.fair_share import Shares
from celora.scheduling.policy import decide, effective_class, lane_reasons, turn
from celora.scheduling.records import Account, Holding, Node, Rules, Waiting
from celora.scheduling.slots import Slots
from celora.settings.gpus import GIB, gpu_catalogue

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
TYPES, RULES = gpu_catalogue({}), Rules()
MEMORY = {"h100": 80 * GIB, "l4": 24 * GIB}
TENANTS, LABELS = ("a", "b", "c"), ("", "fast", "big,fast")
LIMITS = (Code.QUOTA, Code.MAX_JOBS)

jobs_ = st.lists(
    st.builds(
        Waiting,
        id=st.uuids().map(str),
        tenant=st.sampled_from(TENANTS),
        stage=st.sampled_from([Stage.PREPARE, Stage.TRAIN, Stage.TRAIN, Stage.EVALUATE]),
        gpu=st.sampled_from(["h100", "l4", "auto"]),
        priority=st.integers(-1, 1),
        created_at=st.integers(0, 40).map(lambda hours: NOON - timedelta(hours=hours)),
        recovered=st.booleans(),
        memory_bytes=st.sampled_from([None, 4 * GIB, 40 * GIB]),
        job_class=st.sampled_from(list(JobClass)),
        labels=st.sampled_from(LABELS),
        expected_s=st.sampled_from([{}, {"h100": 600.0, "l4": 1800.0}]),
    ),
    max_size=14,
    unique_by=lambda job: job.id,
)
cluster_ = st.lists(
    st.tuples(
        st.sampled_from(["gpu", "gpu", "gpu", "prep"]),
        st.sampled_from(list(MEMORY)),
        st.sampled_from(["", "", "", "a"]),
        st.sampled_from(LABELS),
    ),
    max_size=7,
).map(
    lambda drawn: [
        Node(
            kind=kind, gpu_type=gpu_type if kind == "gpu" else None, memory_bytes=MEMORY[gpu_type], name=f"{number}@h",
            tenant=tenant if kind == "gpu" else "",
            labels=frozenset(labels.split(",")) if labels and kind == "gpu" else frozenset(),
        )
        for number, (kind, gpu_type, tenant, labels) in enumerate(drawn)
    ]
)  # fmt: skip
accounts_ = st.fixed_dictionaries(
    {
        name: st.builds(
            Account,
            weight=st.sampled_from([0.5, 1.0, 3.0]),
            used_s=st.floats(0, 1e5),
            max_gpus=st.sampled_from([None, None, 0, 1, 2]),
            max_jobs=st.sampled_from([None, None, 0, 2]),
            working=st.integers(0, 2),
        )
        for name in TENANTS
    }
)


def held(nodes, busy, tenants):
    """Holdings of some of the nodes, each of a tenant."""
    return [
        Holding(tenant=tenant, gpu_type=node.gpu_type, worker=node.name if node.own_queue else "", job_id=node.name,
                since=NOON - timedelta(minutes=5))
        for node, is_busy, tenant in zip(nodes, busy, tenants, strict=False)
        if is_busy
    ]  # fmt: skip


@st.composite
def situations(draw):
    jobs, nodes, accounts = draw(jobs_), draw(cluster_), draw(accounts_)
    size = len(nodes)
    busy = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    tenants = draw(st.lists(st.sampled_from(TENANTS), min_size=size, max_size=size))
    return jobs, nodes, held(nodes, busy, tenants), accounts


def decided(jobs, nodes, holdings, accounts):
    return decide(jobs, nodes, holdings, types=TYPES, accounts=accounts, rules=RULES, at=NOON)


def pool_of(node):
    return (node.gpu_type, node.name if node.own_queue else "")


def takes(node, job):
    """Whether a worker may run a job at all."""
    if job.stage is Stage.PREPARE:
        return node.kind == "prep"
    if node.kind != "gpu" or node.tenant not in ("", job.tenant):
        return False
    if not set(filter(None, job.labels.split(","))) <= node.labels:
        return False
    return job.gpu == node.gpu_type or (job.gpu == "auto" and node.memory_bytes >= (job.memory_bytes or 0))


def free_slots(nodes, holdings, decision):
    """The free slots of each pool after the decision."""
    slots = Counter(pool_of(node) for node in nodes)
    slots.subtract((one.gpu_type, one.worker) for one in holdings)
    slots.subtract((one.gpu_type, one.worker) for one in decision.releases)
    return slots


@settings(max_examples=50)
@given(situations())
def test_no_slot_is_given_twice_and_each_goes_to_a_job_that_may_have_it(situation):
    jobs, nodes, holdings, accounts = situation
    decision = decided(jobs, nodes, holdings, accounts)
    by_id = {job.id: job for job in jobs}
    assert all(count >= 0 for count in free_slots(nodes, holdings, decision).values())
    assert len({release.job_id for release in decision.releases}) == len(decision.releases)
    for release in decision.releases:
        pool = [node for node in nodes if pool_of(node) == (release.gpu_type, release.worker)]
        assert all(takes(node, by_id[release.job_id]) for node in pool)
        assert pool


@settings(max_examples=50)
@given(situations())
def test_no_slot_idles_while_a_job_that_may_have_it_waits_below_its_tenants_limits(situation):
    jobs, nodes, holdings, accounts = situation
    decision = decided(jobs, nodes, holdings, accounts)
    free = free_slots(nodes, holdings, decision)
    smallest = {}
    for node in nodes:
        smallest[pool_of(node)] = min(smallest.get(pool_of(node), node.memory_bytes), node.memory_bytes)
    for job in jobs:
        why = decision.waits.get(job.id)
        if why is None or why.code in LIMITS:
            continue
        idle = [
            node
            for node in nodes
            if free[pool_of(node)] > 0 and takes(replace(node, memory_bytes=smallest[pool_of(node)]), job)
        ]
        assert idle == [], (why, job)


@settings(max_examples=50)
@given(situations())
def test_no_tenant_gets_more_than_its_limits(situation):
    jobs, nodes, holdings, accounts = situation
    decision = decided(jobs, nodes, holdings, accounts)
    by_id = {job.id: job for job in jobs}
    for name, account in accounts.items():
        mine = [release for release in decision.releases if by_id[release.job_id].tenant == name]
        holds = sum(one.tenant == name and one.gpu_type is not None for one in holdings)
        gpus = sum(release.gpu_type is not None for release in mine)
        assert account.max_gpus is None or gpus <= max(0, account.max_gpus - holds)
        assert account.max_jobs is None or len(mine) <= max(0, account.max_jobs - account.working)


@settings(max_examples=50)
@given(situations())
def test_no_job_of_a_tenant_overtakes_an_equal_one_of_a_better_turn(situation):
    jobs, nodes, holdings, accounts = situation
    decision = decided(jobs, nodes, holdings, accounts)
    released = {release.job_id for release in decision.releases}
    for ahead in jobs:
        for behind in jobs:
            alike = all(
                getattr(ahead, name) == getattr(behind, name)
                for name in ("tenant", "stage", "gpu", "labels", "recovered", "memory_bytes")
            )
            same = alike and effective_class(ahead, RULES, NOON) is effective_class(behind, RULES, NOON)
            if same and turn(ahead, RULES, NOON) < turn(behind, RULES, NOON):
                assert not (behind.id in released and ahead.id not in released)


@settings(max_examples=50)
@given(situations(), st.randoms(use_true_random=False))
def test_the_order_in_which_rows_are_read_changes_nothing(situation, random):
    jobs, nodes, holdings, accounts = situation
    before = decided(jobs, nodes, holdings, accounts)
    for rows in (jobs, nodes, holdings):
        random.shuffle(rows)
    after = decided(jobs, nodes, holdings, dict(sorted(accounts.items(), reverse=True)))
    assert {one.job_id: one for one in after.releases} == {one.job_id: one for one in before.releases}
    assert {name: why.code for name, why in after.waits.items()} == {
        name: why.code for name, why in before.waits.items()
    }


@given(situations())
@settings(max_examples=200, deadline=None)
def test_lanes_that_share_a_reason_get_the_one_that_each_would_get_alone(situation):
    jobs, nodes, holdings, accounts = situation
    lanes = {job.lane._replace(tenant=tenant) for job in jobs for tenant in TENANTS}
    slots, shares = Slots(nodes, holdings, TYPES, RULES, NOON), Shares(accounts, holdings, RULES, NOON)
    together = lane_reasons(lanes, slots, shares)
    assert together == {lane: lane_reasons([lane], slots, shares)[lane] for lane in lanes}
    for lane in lanes:  # the first reason is that of a job of the lane for which there is no slot
        probe = Waiting(id="x", tenant=lane.tenant, stage=lane.stage, gpu=lane.gpu, priority=0, created_at=NOON,
                        job_class=lane.job_class, labels=lane.labels)  # fmt: skip
        full = Slots(nodes, holdings, TYPES, RULES, NOON)
        for pool in full.pools.values():
            pool.used = pool.total
        assert together[lane][0][1].code == full.place(probe, accounts[lane.tenant]).code
