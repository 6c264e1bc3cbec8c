"""What is swept and, above all, what never is: many jobs in all states, on a folder and on an object store."""

import random
from datetime import timedelta

import fsspec
import pytest
from records import Verbs

from celora.errors import SettingsError
from celora.models import queries
from celora.models.database import get_database
from celora.models.jobs import retention
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Checkpoint, Job
from celora.services import jobs
from celora.services.rounds.sweep import sweep_artifacts
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import write_manifest

SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl"}
WORKER = "cpu-0@here"
ERROR = {"code": "internal", "message": "it broke"}
DAY = 86400


class House(Verbs):
    """A record and artifacts in which jobs live, fail and grow old, through the transitions alone."""

    def __init__(self, artifacts):
        super().__init__(get_database())
        self.artifacts = artifacts
        self.database.migrate()

    def job(self, job_id):
        with self.database.session(Scope.everything) as session:
            return session.get_one(Job, job_id)

    def put(self, job_id, attempt, *names):
        """A committed folder of an attempt."""
        folder = get_settings().home / "made"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_bytes(b"w" * 100)
        write_manifest(folder)
        uri = self.artifacts.uri("jobs", job_id, f"attempt-{attempt}", *names)
        self.artifacts.put_folder(folder, uri)
        return uri

    def log(self, job_id):
        path = get_settings().home / "one.log"
        path.write_text("a line")
        self.artifacts.put_file(path, self.artifacts.uri("jobs", job_id, "logs", "001-train.log"))

    def start(self, job_id):
        """A new job, through prepare."""
        self.submit(job_id=job_id, spec=parse_spec(SPEC))
        self.claim_next(job_id)
        values = {"prepared_uri": self.put(job_id, 1, "prepared"), "prepared": {"max_length": 8}}
        self.advance(Claim(job_id, 1, WORKER), Stage.PREPARE, values)
        self.log(job_id)

    def claim_next(self, job_id):
        job = self.job(job_id)
        if job.status is Status.PENDING:
            self.send(job_id, job.attempt, job.stage, queue="q", gpu_type="cpu" if job.stage.on_gpu else None)
        self.claim(job_id, job.attempt, job.stage, worker_id=WORKER, lease_s=90)
        return self.job(job_id)

    def train(self, job_id, *steps):
        """Train, saving at those steps."""
        job = self.claim_next(job_id)
        for step in steps:
            uri = self.put(job_id, job.attempt, "checkpoints", f"step-{step}")
            facts = {"size_bytes": 100, "manifest_sha256": "0" * 64}
            self.record_checkpoint(Claim(job_id, job.attempt, WORKER), step=step, uri=uri, **facts)
        return job

    def complete(self, job_id):
        attempt = self.job(job_id).attempt
        adapter = self.put(job_id, attempt, "adapter")
        self.advance(Claim(job_id, attempt, WORKER), Stage.TRAIN, {"result": {"adapter_uri": adapter}})
        self.finish(job_id)

    def finish(self, job_id):
        attempt = self.claim_next(job_id).attempt
        self.put(job_id, attempt, "evaluation")
        self.advance(Claim(job_id, attempt, WORKER), Stage.EVALUATE, {})
        self.claim_next(job_id)
        published = {"name": job_id, "base_name": "tiny", "base_revision": "r", "rank": 4}
        published["uri"] = self.put(job_id, attempt, "published")
        self.advance(Claim(job_id, attempt, WORKER), Stage.PUBLISH, {"adapter": published})

    def age(self, job_id, days):
        """Let a job have ended that long ago."""
        with self.database.transaction(Scope.everything) as session:
            job = session.get_one(Job, job_id)
            job.finished_at = self.database.now(session) - timedelta(days=days)

    def sweep(self):
        return sweep_artifacts(get_settings(), self.database)

    def files(self, job_id):
        """What there is of a job: attempt/thing, and its logs."""
        root = self.artifacts.uri("jobs", job_id)
        paths = [path.split("/") for path in self.artifacts.list_files(root)]
        return {"/".join(path[:2]) if path[0] != "logs" else "logs" for path in paths}

    def steps(self, job_id):
        with self.database.session(Scope.everything) as session:
            return [(row.job_id, row.step) for row in queries.resume_candidates(session, job_id)]


@pytest.fixture
def remote(home, monkeypatch):
    monkeypatch.setenv("CELORA_ARTIFACT_ROOT", "memory://bucket/celora")
    get_settings.cache_clear()
    yield House(Artifacts(get_settings().artifacts))
    fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.fixture(params=["here", "remote"])
def house(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def here(home):
    return House(Artifacts(get_settings().artifacts))


def test_a_job_keeps_its_last_checkpoints_and_the_one_it_was_resumed_from(house):
    house.start("j")
    house.train("j", 10, 20, 30, 40)
    house.sweep()
    assert house.files("j") >= {"attempt-1/checkpoints"}
    assert kept_steps(house, "j") == [40, 30]
    house.release(Claim("j", 1, WORKER), Reason.PREEMPTED)
    house.train("j", 50, 60, 70)
    house.sweep()
    assert kept_steps(house, "j") == [70, 60, 40], "40 is where this attempt began"


def test_older_checkpoints_stay_where_a_newer_one_is_not_to_be_found(house):
    house.start("j")
    house.train("j", 10, 20, 30)
    house.artifacts.remove(house.artifacts.uri("jobs", "j", "attempt-1", "checkpoints", "step-30"))
    house.sweep()
    with house.database.session(Scope.everything) as session:
        assert sorted(row.step for row in session.query(Checkpoint)) == [10, 20, 30]


def kept_steps(house, job_id):
    """The steps of the job's checkpoints, each of which is in the record and in its place."""
    with house.database.session(Scope.everything) as session:
        rows = session.query(Checkpoint).filter_by(job_id=job_id).order_by(Checkpoint.step.desc()).all()
    assert all(house.artifacts.committed(row.uri) for row in rows)
    folders = [
        path for path in house.artifacts.list_files(house.artifacts.uri("jobs", job_id)) if "checkpoints" in path
    ]
    assert len({path.rsplit("/", 1)[0] for path in folders}) == len(rows)
    return [row.step for row in rows]


def test_of_a_completed_job_the_published_adapter_and_its_evaluation_stay_for_good(house):
    house.start("a")
    house.train("a", 2, 4)
    house.complete("a")
    house.age("a", 29)
    assert house.sweep() == 0
    house.age("a", 31)
    assert house.sweep() > 400
    assert house.files("a") == {"attempt-1/published", "attempt-1/evaluation", "logs"}
    assert house.sweep() == 0
    house.age("a", 91)
    assert house.sweep() == len("a line")
    assert house.files("a") == {"attempt-1/published", "attempt-1/evaluation"}
    assert house.job("a").log_uri == ""
    assert house.sweep() == 0


def test_a_failed_job_can_be_tried_again_for_a_month_and_from_the_beginning_afterwards(house):
    house.start("a")
    house.train("a", 2, 4)
    house.fail(Claim("a", 1, WORKER), ERROR)
    house.age("a", 29)
    house.sweep()
    assert house.retry("a", "early").resume_of == "a"
    assert house.steps("early") == [("a", 4), ("a", 2)]
    house.request_cancel("early")
    for name in ("a", "early"):
        house.age(name, 31)
    house.sweep()
    assert house.files("a") == {"logs"}
    with house.database.session(Scope.everything) as session:
        assert session.query(Checkpoint).count() == 0
    late = house.retry("a", "late")
    assert (late.stage, late.resume_of, late.retry_of) == (Stage.PREPARE, None, "a")


def test_what_a_job_goes_on_from_stays_for_as_long_as_the_job_may_be_tried_again(house):
    house.start("a")
    house.train("a", 4)
    house.fail(Claim("a", 1, WORKER), ERROR)
    house.retry("a", "b")
    house.train("b")
    house.age("a", 400)
    assert house.sweep() == 0
    house.fail(Claim("b", 1, WORKER), ERROR)
    house.age("b", 10)
    assert house.sweep() == 0
    house.retry("b", "c")
    house.age("b", 400)
    assert house.sweep() == 0
    assert house.steps("c") == [("a", 4)]
    house.train("c")
    house.complete("c")
    assert house.sweep() == 0  # it may be evaluated again on the data of its ancestor
    house.age("c", 31)
    house.sweep()
    assert house.files("c") == {"attempt-1/published", "attempt-1/evaluation"}
    assert house.files("a") == set()
    assert house.files("b") == set()


def test_uploads_of_attempts_that_were_fenced_go_with_the_job(house):
    house.start("a")
    house.train("a", 2)
    house.put("a", 1, "checkpoints", "step-9")  # uploaded, and never the job's
    house.release(Claim("a", 1, WORKER), Reason.PREEMPTED)
    house.train("a", 4)
    house.complete("a")
    house.put("a", 1, "published")
    house.age("a", 31)
    house.sweep()
    assert house.files("a") == {"attempt-2/published", "attempt-2/evaluation", "logs"}


def test_a_job_whose_data_was_swept_is_not_evaluated_again_and_says_why(here):
    here.start("a")
    here.train("a", 2)
    here.complete("a")
    here.age("a", 31)
    here.sweep()
    with pytest.raises(SettingsError, match="was swept, 30 days after its end"):
        jobs.evaluate_again("a")


def test_a_store_that_fails_leaves_the_files_to_a_later_sweep(here):
    here.start("a")
    here.train("a", 2)
    here.fail(Claim("a", 1, WORKER), ERROR)
    here.age("a", 31)

    def away(*_, **__):
        raise OSError("away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here.artifacts._files, "rm", away)
        assert here.sweep() == 0
    assert here.job("a").prepared_uri is None
    assert here.files("a") != set()
    here.age("a", 91)
    assert here.sweep() > 0
    assert here.files("a") == set()


def test_a_retry_and_a_sweep_never_undo_each_other(here):
    here.start("a")
    here.train("a", 2)
    here.fail(Claim("a", 1, WORKER), ERROR)
    here.age("a", 31)
    with here.database.session(Scope.everything) as session:
        before = here.database.now(session) - timedelta(days=30)
        assert retention.expired(session, before) == ["a"]
    here.retry("a", "b")  # in between
    with here.database.transaction(Scope.everything) as session:
        assert not retention.drop_job_data(session, "a", before)
    assert here.steps("b") == [("a", 2)]


def populate(house, chance):
    """Two dozen jobs in all states and of all ages, with retries; the live ones, and those that can be retried."""
    live, failed = set(), []
    for number in range(24):
        job_id, end = f"job{number:02d}", chance.choice(["pending", "running", "failed", "cancelled", "completed"])
        if failed and chance.random() < 0.5:
            house.retry(chance.choice(failed), job_id)
        else:
            house.start(job_id)
        if end == "pending":
            live.add(job_id)
            continue
        house.train(job_id, *range(2, 2 + 2 * chance.randrange(3), 2))
        if end == "running":
            live.add(job_id)
            continue
        {
            "completed": lambda job_id=job_id: house.complete(job_id),
            "failed": lambda job_id=job_id: house.fail(Claim(job_id, 1, WORKER), ERROR),
            "cancelled": lambda job_id=job_id: house.finish_cancel(Claim(job_id, 1, WORKER)),
        }[end]()
        failed += [job_id] if end != "completed" else []
        house.age(job_id, chance.choice([1, 29, 31, 60, 91, 400]))
    return live, failed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_whatever_state_many_jobs_are_in_nothing_is_swept_that_one_may_still_need(remote, seed):
    live, failed = populate(remote, random.Random(seed))  # noqa: S311  (no secret)
    assert live
    month_ago = remote.job("job00").created_at - timedelta(days=30)
    young = {name for name in failed if remote.job(name).finished_at > month_ago}
    needs = {name: (remote.steps(name), remote.job(name).prepared_uri) for name in live}
    needs |= {name: (remote.steps(name), remote.job(name).prepared_uri) for name in young}
    assert remote.sweep() > 0
    remote.sweep()
    for name, (steps, prepared_uri) in needs.items():
        assert (remote.steps(name), remote.job(name).prepared_uri) == (steps, prepared_uri)
        assert remote.artifacts.committed(prepared_uri)
        with remote.database.session(Scope.everything) as session:
            for row in queries.resume_candidates(session, name):
                assert remote.artifacts.committed(row.uri)
    with remote.database.session(Scope.everything) as session:
        for published in queries.adapters(session):
            assert remote.artifacts.committed(published["uri"])
        for row in session.query(Checkpoint):
            assert remote.artifacts.committed(row.uri)
