"""A job of the HTTP API that is moved through its stages as workers move it."""

from celora.models.jobs import progress, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage

WORKER = "w@here"


class Moved:
    """Moves a job from stage to stage in the record."""

    def __init__(self, database, job_id):
        self.database, self.job_id = database, job_id
        self.claim = Claim(job_id, 1, WORKER)

    def begin(self, stage):
        with self.database.transaction(Scope.everything) as session:
            if stage in (Stage.PREPARE, Stage.TRAIN):
                transitions.send(session, self.job_id, 1, stage, queue="q", gpu_type="cpu")
            assert transitions.claim(session, self.job_id, 1, stage, worker_id=WORKER, lease_s=900)

    def measure(self, *points):
        for point in points:
            with self.database.transaction(Scope.everything) as session:
                assert progress.record_metric_points(session, self.claim, [point])

    def checkpoint(self, step, epoch=None):
        facts = {"uri": f"file:///c{step}", "size_bytes": 1, "manifest_sha256": "0" * 64, "epoch": epoch}
        with self.database.transaction(Scope.everything) as session:
            assert progress.record_checkpoint(session, self.claim, step=step, **facts)

    def finish(self, stage, **values):
        with self.database.transaction(Scope.everything) as session:
            assert transitions.advance(session, self.claim, stage, values)

    def fail(self, code, message):
        with self.database.transaction(Scope.everything) as session:
            assert transitions.fail(session, self.claim, {"code": code, "message": message})

    def complete(self, points=(), checkpoints=()):
        """Run every stage; the training reports its points and checkpoints."""
        base = {"name": "tiny", "revision": "r1"}
        adapter = {"name": "a", "uri": "file:///a", "base_name": "tiny", "base_revision": "r1", "rank": 4,
                   "metrics": None, "size_bytes": 1}  # fmt: skip
        for stage in Stage:
            self.begin(stage)
            values = {Stage.PREPARE: {"base": base}, Stage.PUBLISH: {"adapter": adapter, "summary": {}}}.get(stage, {})
            if stage is Stage.TRAIN:
                self.measure(*points)
                for epoch, step in enumerate(checkpoints, 1):
                    self.checkpoint(step, epoch)
                steps = max([point["step"] for point in points], default=1)
                values = {"steps": steps, "step": steps, "result": {"tokens": 900},
                          "resolved": {"effective_batch": 4, "epochs": 3, "learning_rate": 1e-3}}  # fmt: skip
            self.finish(stage, **values)
