"""An installation under attack: real workers with the mini trainer, short times, a record and a broker from outside.

    with Cluster(home, broker_url=url, database_url=url) as cluster:
        cluster.start()                               # control, beat, prep, three GPU workers; waits until they are up
        ids = cluster.submit(50, steps=600, save_steps=25)
        cluster.kill("cpu-0"); cluster.start_worker("gpu", "cpu-0")
        cluster.wait_final(ids, 600)
        assert faults(cluster, ids) == []             # chaos.oracle

Modules of this folder import each other as ``chaos.NAME`` (``tests/`` is on the path: see conftest.py and run.py). The
harness never touches the product's memory: it starts, kills, freezes, reads the record and the files.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path

from chaos import chain
from chaos.processes import descends_from, processes_of, trainers_of

from celora.errors import UnavailableError
from celora.models import queries
from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import Adapter, Announcement, Attempt, Checkpoint, Event, Job, Table, Worker

HERE = Path(__file__).parent
FINAL = ("completed", "failed", "cancelled")
SHORT = {
    "CELORA_LEASE_S": "4",
    "CELORA_HEARTBEAT_S": "1",
    "CELORA_REAPER_S": "1",
    "CELORA_TICK_S": "1",
    "CELORA_CLAIM_S": "5",
    "CELORA_GRACE_S": "20",
    "CELORA_VISIBILITY_TIMEOUT_S": "5",
    "CELORA_TRAINER_THREADS": "0",
    "CELORA_WARM_S": "0",
    "OMP_NUM_THREADS": "1",
}
"""Settings of every process; a cluster's own come on top."""

KINDS = {
    "control": lambda name: ["worker", "-n", f"{name}@%h", "-Q", "celora", "-c", "2"],
    "prep": lambda name: ["worker", "-n", f"{name}@%h", "-Q", "prep", "-c", "1"],
    "gpu": lambda name: ["worker", "--gpu", name.rsplit("-", 1)[1]],
    "beat": lambda name: ["beat", "--pidfile", ""],
}
WORKER_OPTIONS = ["--pool", "prefork", "--disable-prefetch", "-E", "--without-gossip", "--without-mingle"]


class Cluster:
    """A celora installation whose processes can be harmed.

    Args:
        home: Its CELORA_HOME.
        broker_url: Of a running Valkey; what is done to it is the caller's business.
        database_url: Of an empty or a migrated database; SQLite below the home unless given.
        settings: Environment on top of ``SHORT``.
        step_s: Seconds that a training step takes.
    """

    def __init__(self, home, *, broker_url, database_url=None, settings=None, step_s=0.02):
        self.home = Path(home)
        self.steps_folder = self.home / "steps"
        self.database_url = database_url or f"sqlite:///{self.home / 'celora.db'}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CELORA_")},
            **SHORT,
            "CELORA_HOME": str(self.home),
            "CELORA_BROKER_URL": broker_url,
            "CELORA_RESULT_BACKEND": broker_url,
            "CELORA_DATABASE_URL": self.database_url,
            "CHAOS_STEPS": str(self.steps_folder),
            "CHAOS_STEP_S": str(step_s),
            **(settings or {}),
        }
        self.workers = {}
        """The running processes by name: ``subprocess.Popen``, each the leader of a session of its own."""

    def __enter__(self):
        self.home.mkdir(parents=True, exist_ok=True)
        self.steps_folder.mkdir(exist_ok=True)
        self.rows = self.home / "rows.jsonl"
        self.rows.write_text('{"instruction": "a", "output": "b"}\n' * 12)
        self.database = Database(self.database_url)
        self.database.migrate()
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            self.database.dispose()

    # ---- processes -------------------------------------------------------------------------------------------------

    def start(self, gpus=3, *, timeout_s=90):
        """Start what an installation needs and wait until every worker has registered."""
        self.start_worker("control", "control")
        self.start_worker("beat", "beat")
        self.start_worker("prep", "prep")
        for number in range(gpus):
            self.start_worker("gpu", f"cpu-{number}")
        self.wait_registered(timeout_s)

    def start_worker(self, kind, name, env=None):
        """Start one process (control, prep, gpu, beat) and return it at once; a GPU worker is called ``cpu-NUMBER``."""
        arguments = KINDS[kind](name)
        if kind == "beat":
            arguments += ["--schedule", str(self.home / f"{name}-schedule")]
        else:
            arguments += WORKER_OPTIONS
        return self.launch(name, [sys.executable, str(HERE / "launcher.py"), *arguments, "--loglevel", "INFO"], env)

    def launch(self, name, command, env=None):
        """Start any program as a part of the installation, under a name."""
        log = self.home / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            self.workers[name] = subprocess.Popen(
                command,
                cwd=self.home,
                env={**self.environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.workers[name]

    def wait_registered(self, timeout_s=90):
        """Wait until the record shows every worker process that we started as online."""

        def registered():
            online = {worker["pid"] for worker in self.registered() if worker["status"] == "online"}
            waited = {name: process for name, process in self.workers.items() if "beat" not in name}
            ended = [name for name, process in waited.items() if process.poll() is not None]
            assert not ended, f"{', '.join(ended)} ended at once\n{self.logs()}"
            return all(process.pid in online for process in waited.values())

        self.wait(registered, timeout_s, "every worker is registered")

    def up(self, name):
        """Whether a process has registered since it was started; beat never does."""
        pids = {worker["pid"] for worker in self.registered() if worker["status"] == "online"}
        return "beat" in name or self.workers[name].pid in pids

    def kill(self, worker):
        """SIGKILL a worker with all its children, as a machine's loss does; its trainers live on until they notice."""
        process = self._process(worker)
        self.tell(process, signal.SIGKILL)
        process.wait()
        return process

    def kill_trainer(self, worker):
        """SIGKILL the trainer below a worker, as the kernel does when memory runs out; False where there is none."""
        for trainer in self.trainers(worker):
            try:
                os.kill(trainer.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return True
        return False

    def freeze(self, worker):
        """SIGSTOP a worker with its children; its trainers go on.

        SQLite has nobody who could take the write lock from a process that is frozen inside a transaction (PostgreSQL
        does, by ``idle_in_transaction_session_timeout``): there the freeze is tried until it falls between two.
        """
        while True:
            self.tell(self._process(worker), signal.SIGSTOP)
            if self.database_url.startswith("postgres") or self._writable():
                return
            self.tell(self._process(worker), signal.SIGCONT)

    def _writable(self):
        """Whether the SQLite file's write lock is to be had."""
        with closing(sqlite3.connect(self.database_url.removeprefix("sqlite:///"), timeout=1)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    def thaw(self, worker):
        """SIGCONT what ``freeze`` stopped."""
        self.tell(self._process(worker), signal.SIGCONT)

    def tell(self, process, number):
        """Send a signal to a process's whole group."""
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return

    def trainers(self, worker=None):
        """The live trainers of the installation, or those below one worker."""
        found = trainers_of(self.home)
        return found if worker is None else [one for one in found if descends_from(one, self._process(worker).pid)]

    def stop(self, grace_s=30):
        """SIGTERM to all, then SIGKILL to whatever carries our home in its environment."""
        for process in self.workers.values():
            self.tell(process, signal.SIGCONT)
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(process.poll() is None for process in self.workers.values()):
            time.sleep(0.05)
        for process in self.workers.values():
            self.tell(process, signal.SIGKILL)
            process.wait()
        self.workers.clear()
        for process in processes_of(self.home):
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _process(self, worker):
        return self.workers[worker] if isinstance(worker, str) else worker

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def spec(self, *, steps, save_steps=25, base="chain", **fields):
        """A job spec for the mini trainer."""
        return {
            "base_model": base,
            "dataset": str(self.rows),
            "max_steps": steps,
            "save_steps": save_steps,
            "seed": 1,
            "gpu": "cpu",
            **fields,
        }

    def submit(self, count, *, steps, save_steps=25, env=None, **fields):
        """Submit jobs in one program and return the ids that were accepted; ``submissions`` tells more."""
        answers = self.submissions(
            [
                {"id": f"j{uuid.uuid4().hex[:12]}", "fields": self.spec(steps=steps, save_steps=save_steps, **fields)}
                for _ in range(count)
            ],
            env,
        )
        refused = [answer for answer in answers if not answer["ok"]]
        assert not refused, refused
        return [answer["id"] for answer in answers]

    def submissions(self, jobs, env=None):
        """Submit ``{"id", "fields"}`` in one program; its answers, of which there may be fewer if it was killed."""
        log = self.home / "logs" / "submit.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            done = subprocess.run(
                [sys.executable, str(HERE / "submitter.py")],
                input=json.dumps(jobs).encode(),
                env={**self.environment, **(env or {})},
                stdout=subprocess.PIPE,
                stderr=output,
                check=False,
            )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def command(self, program, *arguments, check=True):
        """What another program of the virtual environment prints, run in this installation's environment."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / program), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def job(self, job_id):
        """A job's row as a dict of its columns; None where there is none."""
        found = self._rows(Job, Job.id == job_id)
        return found[0] if found else None

    def jobs(self, ids=None):
        """The rows of some jobs, or of all."""
        return self._rows(Job, *([Job.id.in_(list(ids))] if ids is not None else []))

    def events(self, job_id):
        """A job's history, in order."""
        return self._rows(Event, Event.job_id == job_id)

    def attempts(self, job_id):
        """A job's attempts, in order."""
        return sorted(self._rows(Attempt, Attempt.job_id == job_id), key=lambda row: row["number"])

    def checkpoints(self, job_id):
        """A job's recorded checkpoints."""
        return self._rows(Checkpoint, Checkpoint.job_id == job_id)

    def adapters(self, job_id):
        """The published adapters of a job: one or none."""
        return self._rows(Adapter, Adapter.id == job_id)

    def announcements(self, job_id):
        """What is owed or told of a job's end."""
        return self._rows(Announcement, Announcement.job_id == job_id)

    def registered(self):
        """The workers in the record."""
        return self._rows(Worker)

    def summary(self, job_id):
        """What ``celora status`` knows."""
        with self.database.session(Scope.everything) as session:
            return queries.job_detail(session, job_id).plain()

    def steps(self, job_id):
        """The steps that were really done, by attempt: a list of ``(step, monotonic time)`` each."""
        found = {}
        for path in sorted((self.steps_folder / job_id).glob("*.log")):
            pairs = [line.split() for line in path.read_text().splitlines()]
            found[int(path.stem)] = [(int(pair[0]), float(pair[1])) for pair in pairs if len(pair) == 2]
        return found

    def expected_weights(self, job):
        """The weights that a job must end with."""
        return chain.expected(job["spec"]["seed"], job["dataset_sha256"], job["spec"]["max_steps"])

    def wait_final(self, ids, timeout_s):
        """Wait until every job has ended, and return their rows."""
        ids = list(ids)

        def ended():
            rows = self.jobs(ids)
            return len(rows) == len(ids) and all(job["status"] in FINAL for job in rows)

        self.wait(ended, timeout_s, "every job has ended")
        return self.jobs(ids)

    def wait(self, condition, timeout_s, what="the condition"):
        """Wait for a condition of the record; a record that is away only costs time."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if condition():
                    return
            except UnavailableError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s:.0f} s: {what}\n{self.state()}")
            time.sleep(0.05)

    def state(self):
        """Where everything stands, for an error's message."""
        try:
            jobs = "\n".join(
                f"{job['id']} {job['status']} {job['stage']} attempt {job['attempt']} step {job['step']} "
                f"on {job['worker_id']} {job['wait_reason']} {job['error'] or ''}"
                for job in self.jobs()
                if job["status"] != "completed"
            )
            workers = "\n".join(f"{w['id']} {w['status']} {w['pid']}" for w in self.registered())
        except UnavailableError as error:
            jobs, workers = f"the record is away: {error}", ""
        return f"{jobs}\n{workers}\n{self.logs()}"

    def logs(self, characters=1500):
        """The ends of all logs."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-characters:]}"
            for path in sorted((self.home / "logs").glob("*.log"))
        )

    def _rows(self, table: type[Table], *conditions):
        from sqlalchemy import select

        with self.database.session(Scope.everything) as session:
            keys = [column.key for column in table.__mapper__.column_attrs]
            rows = session.scalars(select(table).where(*conditions).order_by(*table.__mapper__.primary_key))
            return [{key: getattr(row, key) for key in keys} for row in rows]
