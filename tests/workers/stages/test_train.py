"""Training resumes from the newest checkpoint that verifies, within the limits that memory taught."""

import pytest
from claimed_job import WORKER

from celora.models.jobs import progress, transitions
from celora.models.scope.scope import Scope
from celora.models.states import Reason, Ruling, Stage
from celora.tuning.recipe import Adjusted
from celora.workers.stages.runner import claimed
from celora.workers.stages.train import train_request

ERROR = {"code": "out_of_memory", "message": "m"}


def next_attempt(installation):
    attempt = installation.job().attempt
    installation.write(transitions.send, "j", attempt, Stage.TRAIN, queue="q", gpu_type="cpu")
    return claimed(installation.request(Stage.TRAIN), Stage.TRAIN, "j", attempt)


def save(installation, stage, step):
    uri = installation.folder(f"checkpoint-{step}")
    facts = {"step": step, "uri": uri, "size_bytes": 1, "manifest_sha256": "0" * 64}
    installation.write(progress.record_checkpoint, stage.claim, **facts)
    return stage.workspace.artifacts.local_path(uri)


def test_a_first_attempt_starts_afresh(installation):
    with installation.claimed(Stage.TRAIN) as stage:
        request = train_request(stage)
    assert (request.resume_from, request.adjusted, request.resolved) == (None, None, None)
    assert (request.device, request.seed, request.attempt) == ("cpu", stage.spec.seed, 1)


def test_a_checkpoint_that_does_not_verify_is_skipped(installation):
    with installation.claimed(Stage.TRAIN) as stage:
        older, newer = save(installation, stage, 5), save(installation, stage, 10)
        installation.write(transitions.release, stage.claim, Reason.PREEMPTED, resume_step=10)
    (newer / "file").write_text("changed")
    with next_attempt(installation) as stage:
        assert train_request(stage).resume_from == str(older)
    assert [kind for kind in installation.kinds() if kind in ("checkpoint_rejected", "resumed")] == [
        "checkpoint_rejected",
        "resumed",
    ]


def test_where_no_checkpoint_verifies_training_starts_again_and_says_so(installation):
    with installation.claimed(Stage.TRAIN) as stage:
        (save(installation, stage, 5) / "file").unlink()
        installation.write(transitions.release, stage.claim, Reason.PREEMPTED)
    with next_attempt(installation) as stage:
        assert train_request(stage).resume_from is None
    assert "started_again" in installation.kinds()


def test_the_jobs_own_limits_hold_for_its_next_attempt(installation):
    smaller = Adjusted(micro_batch=2, why="oom")
    with installation.claimed(Stage.TRAIN) as stage:
        ruling = Ruling(again=True, reason=Reason.ADJUSTED, adjusted=smaller)
        installation.write(transitions.try_again, stage.claim, ERROR, ruling)
    with next_attempt(installation) as stage:
        assert train_request(stage).adjusted == smaller


@pytest.mark.parametrize(("spec", "micro_batch"), [({}, 1), ({"micro_batch": 2, "effective_batch": 4}, None)])
def test_an_earlier_jobs_limits_hold_unless_the_job_names_its_micro_batch(installation, spec, micro_batch):
    from celora.models.jobs.failures import base_key
    from celora.models.tables import SafeBatch

    with installation.claimed(Stage.TRAIN, **spec) as stage:
        key = {"base": base_key(stage.job.base), "gpu_type": "cpu", "max_length": 32}
        with installation.database.transaction(Scope.everything) as session:
            at = installation.database.now(session)
            session.add(SafeBatch(**key, micro_batch=1, gradient_checkpointing=False, updated_at=at))
        adjusted = train_request(stage).adjusted
    assert (adjusted.micro_batch if adjusted else None) == micro_batch
    assert stage.claim.worker_id == WORKER
