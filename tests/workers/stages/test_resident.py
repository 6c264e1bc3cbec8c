"""How a stage joins the trainer host of its worker, and what of the host reaches the record."""

from types import SimpleNamespace

import pytest

from celora.models.jobs import transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Ruling, Stage
from celora.models.tenants.limits import set_limits
from celora.settings.settings import get_settings
from celora.tuning.trainer.host_messages import Greeting, Resident
from celora.workers.gpu_option import PINNED
from celora.workers.stages import resident
from celora.workers.stages.resident import direct_queue_of, goes_alone, keep_here, place_of, plan_of, resident_of


@pytest.fixture
def hosting(installation, monkeypatch):
    """An installation whose CPU workers keep a trainer host."""
    monkeypatch.setenv("CELORA_TRAINER_HOST", "always")
    get_settings.cache_clear()
    installation.settings = get_settings()
    return installation


def test_a_cpu_worker_keeps_no_host_unless_a_setting_says_so(installation):
    with installation.claimed(Stage.TRAIN) as stage:
        assert plan_of(stage) is None
        assert direct_queue_of(stage) is None


def test_a_plan_names_the_tenant_and_what_the_job_must_not_share(hosting):
    with hosting.claimed(Stage.TRAIN, exclusive=True, tenant="team-a") as stage:
        plan = plan_of(stage)
        assert (plan.opening.tenant, plan.opening.exclusive, plan.opening.variables) == ("team-a", True, [])
        assert not plan.between_tenants
        assert plan.are_ours(["j:1"])
        assert not plan.are_ours(["j:1", "of-somebody:1"])
        assert plan.admits([])
        assert not plan.admits(["of-somebody:1"])
        assert (plan.opening.weight, plan.opening.memory_bytes, plan.place.slots) == (1.0, 0, 1)


def test_a_run_of_several_slots_brings_its_weight_and_waits_inside_for_strangers(hosting, monkeypatch):
    monkeypatch.setenv("CELORA_RUNS_PER_DEVICE", "2")
    monkeypatch.setenv("CELORA_SHARE", "all")
    get_settings.cache_clear()
    hosting.settings = get_settings()
    with hosting.database.transaction(Scope.everything) as session:
        set_limits(session, "team-a", {"weight": 2.5})
    with hosting.claimed(Stage.TRAIN, tenant="team-a") as stage:
        stage.job.memory_bytes, stage.job.least_memory_bytes = 5, 7
        plan = plan_of(stage)
        assert (plan.opening.weight, plan.opening.memory_bytes, plan.place.slots) == (2.5, 7, 2)
        assert (plan.between_tenants, plan.opening.between_tenants) == (True, True)
        assert plan.admits(["of-somebody:1"])


def test_the_attempt_after_a_shared_crash_goes_alone_once(hosting):
    with hosting.claimed(Stage.TRAIN) as stage:
        assert not goes_alone(stage)
        error = {"code": "host_lost", "message": "m", "facts": {"host": "g"}}
        again = Ruling(again=True, paid=False)
        assert hosting.write(transitions.try_again, stage.claim, error, again)
    assert hosting.job().attempt == 2
    claim = Claim("j", 2, stage.claim.worker_id)
    second = SimpleNamespace(database=hosting.database, job=hosting.job(), claim=claim)
    assert goes_alone(second)
    third = SimpleNamespace(database=hosting.database, job=SimpleNamespace(id="j", attempt=3))
    assert not goes_alone(third)


def test_a_place_bears_its_owner_and_its_device(hosting, monkeypatch):
    monkeypatch.setenv(PINNED, "h100:1:GPU-1")
    place = place_of(hosting.settings, 77)
    assert (place.socket.name, place.log.name, place.device) == ("host-77.sock", "trainer-host-h100-1.log", "cuda")


def test_what_a_host_says_of_itself_is_what_the_record_keeps(hosting, monkeypatch):
    assert resident_of(hosting.settings, 2**22 + 1) is None
    base = Resident(base="llama", revision="r1", quantization="nf4", compute_dtype="bfloat16", memory_bytes=5, runs=3,
                    loaded_at=2.0)  # fmt: skip
    greeting = Greeting(generation="g", pid=1, versions={}, device="cpu", threads=1, started_at=1.0, memory_bytes=9,
                        resident=base, runs=["j:1"])  # fmt: skip
    monkeypatch.setattr(resident.hosts, "greeting_of", lambda _place: greeting)
    found = resident_of(hosting.settings)
    assert (found.key, found.memory_bytes, found.runs, found.base_runs) == ("llama@r1", 9, 1, 3)


def test_an_evaluation_stays_with_the_worker_that_trained(hosting, register_worker):
    message = {"options": {"queue": "gpu.cpu"}}
    request = SimpleNamespace(chain=[message])
    with hosting.claimed(Stage.TRAIN) as stage:
        assert keep_here(request, stage) is None
        name = f"gpu.cpu@={stage.claim.worker_id}"
        register_worker(queues=["q", "gpu.cpu", name])
        assert keep_here(request, stage) == name
        assert message["options"]["queue"] == name
        assert keep_here(SimpleNamespace(chain=None), stage) is None
