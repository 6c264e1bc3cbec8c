"""A rolling upgrade under running jobs: workers of an earlier commit, then both beside each other, then the new ones.

PostgreSQL and Valkey of its own, real training of a random model of 0.2 M parameters. The earlier version is checked
out, installed apart and started; it gets one job that runs, some that wait behind it and one that is paused. Then the
order of docs/operations.md: `celora migrate` of the new version, new workers beside the old, the old ones told to leave
(SIGTERM) one after the other. In the end every job must be completed with its adapter, no step trained twice, and every
history legal.

`python benchmarks/rolling_restart.py --from REV` prints one JSON object and writes it to
benchmarks/results/rolling_restart.json, beside the runs from other commits; the exit code is 1 where something is lost.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from celora.models.scope.scope import Scope

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

RESULTS = ROOT / "benchmarks" / "results" / "rolling_restart.json"
QUICK = {
    "CELORA_TICK_S": "1",
    "CELORA_REAPER_S": "2",
    "CELORA_HEARTBEAT_S": "2",
    "CELORA_LEASE_S": "15",
    "CELORA_TRAINER_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
WORKERS = {
    "control": ("-Q", "celora", "-c", "2"),
    "prep": ("-Q", "prep", "-c", "1"),
    "gpu": ("--gpu",),
}
WAITING = 4
STEPS = 2500


class Side:
    """One version's processes, all with the same record and broker.

    Args:
        name: ``old`` or ``new``.
        environment: Of each process.
        folder: For logs and beat's own file.
    """

    def __init__(self, name: str, environment: dict[str, str], folder: Path) -> None:
        self.name, self.environment, self.folder = name, environment, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def celora(self, *words: str) -> str:
        """Run a command of this version; what it printed."""
        program = [sys.executable, "-c", "from celora.cli.app import main; main()", *words]
        done = subprocess.run(
            program, env=self.environment, capture_output=True, text=True, check=False, cwd=ROOT.parent
        )
        if done.returncode:
            raise SystemExit(f"{self.name}: celora {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def python(self, code: str, *words: str) -> str:
        """Run lines of Python with this version; what they printed."""
        program = [sys.executable, "-c", code, *words]
        done = subprocess.run(
            program, env=self.environment, capture_output=True, text=True, check=False, cwd=self.folder
        )
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def start(self, kind: str, gpu: int = 0) -> None:
        """Start a worker of a kind, or beat."""
        if kind == "beat":
            words = ["beat", "--schedule", str(self.folder / f"beat-{self.name}"), "--pidfile", ""]
        else:
            own = [str(gpu)] if kind == "gpu" else ["-n", f"{kind}-{self.name}@%h"]
            words = ["worker", *WORKERS[kind], *own, "--pool", "prefork", "--disable-prefetch", "-E",
                     "--without-gossip", "--without-mingle"]  # fmt: skip
        command = [sys.executable, "-m", "celery", "-A", "celora.workers", *words, "--loglevel", "INFO"]
        with (self.folder / f"{self.name}-{kind}.log").open("ab") as log:
            self.processes[kind] = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def leave(self, kind: str, within_s: float = 60) -> int:
        """Tell a process to leave (SIGTERM) and wait for it; its exit code."""
        process = self.processes.pop(kind)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=within_s)

    def end(self) -> None:
        """Whatever still runs is killed."""
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    """Run it, print and write what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="revision", required=True, help="the earlier version: a tag or a commit")
    options = parser.parse_args()
    commit = git("rev-parse", "--short", options.revision)
    with tempfile.TemporaryDirectory(prefix="celora-rolling-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user
        found = run(Path(folder), commit)
    found = {"from": commit, "to": git("rev-parse", "--short", "HEAD"), **found}
    found["command"] = f"python benchmarks/rolling_restart.py --from {commit}"
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    kept = [each for each in known if each["from"] != commit]
    RESULTS.write_text(json.dumps([*kept, found], indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))
    sys.exit(0 if found["passed"] else 1)


def run(folder: Path, commit: str) -> dict[str, Any]:
    """The upgrade, from the first job on the old version to the last on the new one."""
    from chaos.legal import faults_of  # noqa: PLC0415  (found on the path of the lines above)
    from chaos.servers import Postgres, Valkey  # noqa: PLC0415  (the same)
    from schedules import grow, machine, make_base  # noqa: PLC0415  (the same)

    began = time.monotonic()
    base, rows = make_base(folder / "base"), folder / "rows.jsonl"
    grow(rows, 60)
    with ExitStack() as stack:
        site = stack.enter_context(installed(commit, folder / "old"))
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        url = stack.enter_context(Postgres(folder / "postgres")).create("celora")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CELORA_")}
        environment |= {**QUICK, "CELORA_HOME": str(folder / "home"), "CELORA_DATABASE_URL": url,
                        "CELORA_BROKER_URL": valkey.url, "CELORA_RESULT_BACKEND": valkey.url}  # fmt: skip
        old = Side("old", {**environment, "PYTHONPATH": str(site)}, folder)
        new = Side("new", environment, folder)
        require_apart(old, site)
        stack.callback(new.end)
        stack.callback(old.end)
        found = upgrade(old, new, str(base), str(rows))
        jobs = [json.loads(new.celora("status", job, "--json")) for job in found.pop("jobs")]
        events, redone = story_of(url)
    faults = {job["id"]: faults_of(events[job["id"]]) for job in jobs}
    drained = sum(e["kind"] == "released" and e["data"]["stage"] == "train" for e in events["running"])
    completed = sum(job["status"] == "completed" and bool(job["adapter"]) for job in jobs)
    return {
        "passed": bool(
            completed == len(jobs)
            and not any(faults.values())
            and not redone
            and drained
            and not any(found["exit_codes"])
        ),
        "jobs": len(jobs),
        "completed": completed,
        "not_completed": {job["id"]: job["error"] for job in jobs if job["status"] != "completed"},
        "drained_in_training": drained,
        "steps_redone": redone,
        "attempts": [job["attempt"] for job in jobs],
        "histories_that_are_not_legal": {job: fault for job, fault in faults.items() if fault},
        **found,
        "seconds": round(time.monotonic() - began, 1),
        **machine(),
    }


def upgrade(old: Side, new: Side, base: str, rows: str) -> dict[str, Any]:
    """Bring the jobs from the old version to the new one, in the documented order."""
    told: dict[str, Any] = {"jobs": ["running", *(f"waiting-{n}" for n in range(WAITING))], "exit_codes": []}
    old.celora("migrate")
    told["schema_before"] = schema(old)
    for kind in ("control", "prep", "gpu", "beat"):
        old.start(kind)
    submit(old, base, rows, {"running": STEPS})
    wait(lambda: states(old)["running"][1] > STEPS // 100, "the first job trains", 300)
    submit(old, base, rows, {**dict.fromkeys(told["jobs"][1:], 20), "paused": 20})
    told["pauses"] = "pause" in old.celora("--help")
    if told["pauses"]:
        old.celora("pause", "paused")
    told["jobs"].append("paused")
    new.celora("migrate")
    told["schema_after"] = schema(new)
    for kind in ("control", "prep", "gpu", "beat"):
        new.start(kind, gpu=1)
    wait(
        lambda: any(state == "completed" for state, _ in states(new).values()),
        "a new worker finishes a job beside the old ones",
        400,
    )
    told["old_still_trains"] = states(new)["running"][0] == "running"
    for kind in ("beat", "gpu", "prep", "control"):
        told["exit_codes"].append(old.leave(kind) if kind != "beat" else min(0, old.leave(kind)))
    if told["pauses"]:
        told["paused_before_resume"] = states(new)["paused"][0]
        new.celora("resume", "paused")
    ends = ("completed", "failed", "cancelled")
    wait(lambda: all(state in ends for state, _ in states(new).values()), "every job ends", 900)
    return told


def submit(side: Side, base: str, rows: str, jobs: dict[str, int]) -> None:
    """Send jobs with fixed settings, by id and steps, as an application does, and wait until all are accepted."""
    fields = {
        "base_model": base, "dataset": rows, "rank": 4, "micro_batch": 2, "effective_batch": 2, "save_steps": 200,
        "eval_max_rows": 4, "eval_max_new_tokens": 4, "seed": 1,
    }  # fmt: skip
    code = "import json, sys; from celora.tasks import finetune; fields, jobs = json.loads(sys.argv[1]);"
    code += "[finetune.apply_async(kwargs={**fields, 'max_steps': jobs[job]}, task_id=job) for job in jobs]"
    side.python(code, json.dumps([fields, jobs]))
    wait(lambda: jobs.keys() <= states(side).keys(), f"{', '.join(jobs)} accepted", 120)


def states(side: Side) -> dict[str, tuple[str, int]]:
    """Status and step of each job, by the command: its JSON is the same for every version."""
    listed = json.loads(side.celora("list", "--limit", "100", "--json"))
    return {job["id"]: (job["status"], job["step"] or 0) for job in listed}


def schema(side: Side) -> str:
    """The version of the tables."""
    code = "from celora.models.database import get_database as d; from sqlalchemy import text;"
    code += "print(d().engine.connect().execute(text('select version_num from alembic_version')).scalar())"
    return side.python(code)


def wait(condition: Callable[[], bool], what: str, within_s: float) -> None:
    """Wait for something, up to a limit."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {within_s:g} s: {what}")
        time.sleep(1)


def story_of(url: str) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Every job's events in order, and how many steps were trained twice."""
    from celora.models import queries  # noqa: PLC0415  (the new version's)
    from celora.models.database import Database  # noqa: PLC0415  (the same)
    from celora.models.tables import Attempt  # noqa: PLC0415  (the same)

    database = Database(url)
    with database.session(Scope.everything) as session:
        ids = [job.id for job in queries.list_jobs(session, limit=100)]
        rows = session.query(Attempt).order_by(Attempt.job_id, Attempt.number)
        tried = [(row.job_id, row.resume_step or 0, row.steps_done or 0) for row in rows]
        redone = sum(max(0, last - first) for (job, _, last), (then, first, _) in pairwise(tried) if job == then)
        return {job: queries.events(session, job) for job in ids}, redone


@contextmanager
def installed(commit: str, folder: Path) -> Generator[Path]:
    """The earlier version as a folder for PYTHONPATH; the libraries are those of this environment."""
    git("worktree", "add", "--detach", str(folder / "tree"), commit)
    try:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run(
            [*pip, "--no-build-isolation", "--target", str(folder / "site"), str(folder / "tree")], check=True
        )
        yield folder / "site"
    finally:
        git("worktree", "remove", "--force", str(folder / "tree"))


def require_apart(side: Side, site: Path) -> None:
    """Check that a version's modules come from its own folder, whatever this environment has installed.

    Raises:
        SystemExit: They come from elsewhere: the run would compare a version with itself.
    """
    found = side.python("import celora.models.tables as tables; print(tables.__file__)")
    if not Path(found).is_relative_to(site):
        raise SystemExit(f"the earlier version is read from {found}, not from {site}")


def git(*words: str) -> str:
    """What git says."""
    program = shutil.which("git") or "git"
    return subprocess.run([program, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
