"""What one builds without celora: a plain Celery task with late ack that keeps a checkpoint file of its own.

Fair: the same chain of steps and the same interval of checkpoints; the file is written beside and renamed, so it is
never torn; a redelivered task goes on from it; one task at a time and nothing prefetched. Every result is appended to
the job's file of results, as a task that registers a model or sends a mail would do it, so what ran twice shows.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from celery import Celery
from chaos import chain
from chaos.processes import processes_of

MUTEX_S = 300
"""A worker that dies while it gives messages out again holds kombu's lock on that for so long (kombu 5.7)."""
START = "\n=== started ===\n"
FOLDER = Path(os.environ.get("PLAIN_FOLDER", "."))

app = Celery("plain", broker=os.environ.get("PLAIN_BROKER", "redis://127.0.0.1/0"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": int(os.environ.get("PLAIN_TIMEOUT_S", "3600"))},
)


@app.task(name="plain.train", bind=True)
def train(self, job, steps, save_steps):
    """Walk the chain, from the checkpoint if there is one."""
    saved = FOLDER / "checkpoints" / f"{job}.json"
    weights, done = json.loads(saved.read_text()) if saved.exists() else (chain.start_of(1, "plain"), 0)
    with (FOLDER / "steps" / f"{job}-{os.getpid()}-{time.monotonic_ns()}.log").open("a", buffering=1) as log:
        for step in range(done + 1, steps + 1):
            time.sleep(0.02)
            weights = chain.after(weights, step)
            log.write(f"{step}\n")
            if step % save_steps == 0:
                staged = saved.with_suffix(f".{os.getpid()}.tmp")
                staged.write_text(json.dumps((weights, step)))
                staged.replace(saved)
    with (FOLDER / "results" / job).open("a") as results:
        results.write(f"{weights}\n")


class PlainCelery:
    """Workers of the plain app, with as much of ``cluster.Cluster`` as a storm needs.

    Args:
        folder: Its files.
        broker_url: Of a running Valkey.
        visibility_timeout_s: After which Redis gives out again what was not acknowledged.
    """

    def __init__(self, folder, broker_url, *, visibility_timeout_s):
        self.folder, self.workers = Path(folder), {}
        self.environment = {
            **os.environ,
            "CELORA_HOME": str(folder),  # only so that what is ours can be told from what is not
            "PLAIN_FOLDER": str(folder),
            "PLAIN_BROKER": broker_url,
            "PLAIN_TIMEOUT_S": str(visibility_timeout_s),
        }

    def __enter__(self):
        for name in ("steps", "results", "checkpoints"):
            (self.folder / name).mkdir(parents=True)
        return self

    def __exit__(self, *_):
        for process in self.workers.values():
            self._kill(process)
        for process in processes_of(self.folder):
            os.kill(process.pid, signal.SIGKILL)

    def start(self, count):
        """Start the workers."""
        for number in range(count):
            self.start_worker("gpu", f"cpu-{number}")

    def start_worker(self, _kind, name, _env=None):
        """Start one, by the name that a storm knows it by."""
        command = [sys.executable, "-m", "celery", "-A", "plain", "worker", "-c", "1", "-n", f"{name}@%h",
                   "--without-gossip", "--without-mingle", "-l", "INFO"]  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            log.write(START.encode())
            log.flush()
            self.workers[name] = subprocess.Popen(
                command,
                cwd=Path(__file__).parent,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def up(self, name):
        """Whether a worker has said that it is ready since its last start."""
        return " ready." in (self.folder / f"{name}.log").read_text(errors="replace").rpartition(START)[2]

    def submit(self, ids, *, steps, save_steps):
        """Send a task for each job, by a program of its own."""
        program = "import sys, json, plain; [plain.train.delay(job, *json.loads(sys.argv[2])) for job in sys.argv[3:]]"
        command = [sys.executable, "-c", program, "", json.dumps([steps, save_steps]), *ids]
        subprocess.run(command, cwd=Path(__file__).parent, env=self.environment, check=True)

    def kill(self, name):
        """SIGKILL a worker with its children."""
        self._kill(self.workers[name])

    def kill_trainer(self, name):
        """SIGKILL the child that runs the task."""
        children = [process for process in processes_of(self.folder) if process.parent == self.workers[name].pid]
        for process in children:
            os.kill(process.pid, signal.SIGKILL)
        return bool(children)

    def results(self):
        """What each job's file of results holds, a line for each time that it was done."""
        return {path.name: path.read_text().split() for path in (self.folder / "results").iterdir()}

    def steps_done(self):
        """Steps done, all runs of all jobs together."""
        return sum(len(path.read_text().split()) for path in (self.folder / "steps").iterdir())

    def wait_quiet(self, visibility_timeout_s):
        """Wait, with no more kills, until all is done or nothing has happened for as long as a redelivery can take."""
        quiet_s = 2 * visibility_timeout_s + MUTEX_S + 20
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < quiet_s:
            steps = self.steps_done()
            if steps != seen:
                seen, since = steps, time.monotonic()
            elif len(self.results()) == len(list((self.folder / "checkpoints").glob("*.json"))) and self.idle():
                return
            time.sleep(0.5)

    def idle(self):
        """Whether Redis holds no message any more, waiting or out."""
        import redis

        client = redis.Redis.from_url(self.environment["PLAIN_BROKER"])
        try:
            return not (client.llen("celery") or client.hlen("unacked"))
        finally:
            client.close()

    def _kill(self, process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()
