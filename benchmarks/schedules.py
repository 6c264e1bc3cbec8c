"""A schedule that fires faster than its jobs train, on a file that grows, while what carries it is killed.

Two beats and two control workers; when a third of the runs were due, one of each is killed (SIGKILL, the whole process
group) and started again. Overlapping runs are queued. In the end every run must have been trained once, and none
missed. The base is a random model of 0.2 M parameters, since what is measured is not the training; it is a real one.

`python benchmarks/schedules.py --slots 20 --every 3s` prints one JSON object and writes it to
benchmarks/results/schedules.json; the exit code is 1 where a run is missed or trained twice.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from celora.models.scope.scope import Scope

QUICK = {
    "CELORA_TICK_S": "1",
    "CELORA_REAPER_S": "2",
    "CELORA_HEARTBEAT_S": "2",
    "CELORA_LEASE_S": "15",
    "CELORA_TRAINER_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
ROWS_A_SECOND = 4


def main() -> None:
    """Run it, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slots", type=int, default=20)
    parser.add_argument("--every", default="3s")
    parser.add_argument("--limit-s", type=float, default=3600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="celora-schedules-") as folder:
        os.environ |= {**QUICK, "CELORA_HOME": f"{folder}/home"}
        found = run(Path(folder), options.slots, options.every, options.limit_s)
    figures = {**found, "command": f"benchmarks/schedules.py --slots {options.slots} --every {options.every}"}
    print(json.dumps(figures))
    results = Path(__file__).parent / "results" / "schedules.json"
    results.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    sys.exit(0 if figures["passed"] else 1)


def run(folder: Path, wanted: int, every: str, limit_s: float) -> dict[str, Any]:
    """Start the installation, let the runs come, kill, drain, and count."""
    from celora.models.database import get_database  # noqa: PLC0415  (reads CELORA_HOME at import)
    from celora.services import schedules  # noqa: PLC0415  (the same)
    from celora.workers.node.installation import Installation  # noqa: PLC0415  (the same)

    rows = folder / "growing.jsonl"
    grow(rows, 24)
    spec = {
        "base_model": str(make_base(folder / "base")),
        "dataset": str(rows),
        "eval_fraction": 0,
        "max_steps": 1,
        "micro_batch": 2,
        "effective_batch": 2,
        "rank": 4,
        "eval_max_rows": 0,
        "seed": 1,
    }
    with Installation(flower=False, api=False) as installation:
        services = second_of_each(installation)
        database = get_database()
        began = time.monotonic()
        schedules.add("often", spec, every=every, overlap="queue")
        killed, longest = False, 0
        while time.monotonic() - began < limit_s:
            time.sleep(0.5)
            services.restart_ended()
            known = runs_of(database)
            longest = max(longest, sum(row["outcome"] == "waiting" for row in known))
            if len(known) >= wanted:
                stop_firing(database)
            else:
                grow(rows, ROWS_A_SECOND)
            if not killed and len(known) >= wanted // 3:
                kill(services, "control", "beat")
                killed = True
            if len(known) >= wanted and all(row["final"] for row in known):
                break
        seconds = time.monotonic() - began
        return {
            **counted(database),
            "longest_line": longest,
            "killed": killed,
            "seconds": round(seconds, 1),
            **machine(),
        }


def second_of_each(installation: Any) -> Any:
    """Start a second control worker and a second beat beside the installation's own."""
    node = installation.node
    node._worker("control-b", ["-n", "control-b@%h", "-Q", "celora", "-c", "2"])  # noqa: SLF001  (an installation has one)
    schedule = installation.settings.home / "run" / "beat-b"
    node._celery("beat-b", ["beat", "--schedule", str(schedule), "--pidfile", "", "-l", "INFO"])  # noqa: SLF001  (as above)
    return node.services


def kill(services: Any, *names: str) -> None:
    """Kill processes with all their children; the services start them again."""
    for service in services.all:
        if service.name in names:
            os.killpg(service.process.pid, signal.SIGKILL)


def stop_firing(database: Any) -> None:
    """Let no further run come, and those that wait go on (a pause would hold them, too)."""
    from celora.models.tables.schedule import Schedule  # noqa: PLC0415  (as above)

    with database.transaction(Scope.everything) as session:
        for schedule in session.query(Schedule):
            schedule.next_slot = None


def runs_of(database: Any) -> list[dict[str, Any]]:
    """Every run: at, claimed, outcome, and of its job status, attempts and the version it saw."""
    from celora.models import queries  # noqa: PLC0415  (as above)
    from celora.models.tables import Job  # noqa: PLC0415  (as above)
    from celora.models.tables.schedule import ScheduleRun  # noqa: PLC0415  (as above)

    with database.session(Scope.everything) as session:
        return [
            {
                "at": run.at,
                "late_s": (run.created_at - run.at).total_seconds(),
                "outcome": run.outcome,
                "job": run.job_id,
                "final": job is not None and job.status.final,
                "status": job.status.value if job is not None else None,
                "attempts": job.attempt if job is not None else 0,
                "version": queries.datasets_of(session, job.id).get("train", {}).get("version") if job else None,
            }
            for run, job in session.query(ScheduleRun, Job)
            .outerjoin(Job, Job.id == ScheduleRun.job_id)
            .order_by(ScheduleRun.at)
        ]


def counted(database: Any) -> dict[str, Any]:
    """What became of the runs, against those that the calendar says there were."""
    from celora.models.tables import Adapter, Job  # noqa: PLC0415  (as above)
    from celora.models.tables.schedule import Schedule  # noqa: PLC0415  (as above)
    from celora.scheduling.cron import between  # noqa: PLC0415  (as above)
    from celora.services.schedules import rhythm_of  # noqa: PLC0415  (as above)

    known = runs_of(database)
    with database.session(Scope.everything) as session:
        schedule = session.query(Schedule).one()
        rhythm = rhythm_of(schedule)
        expected: list[datetime] = list(between(rhythm, schedule.created_at, schedule.last_slot)) if rhythm else []
        jobs, adapters = session.query(Job).count(), session.query(Adapter).count()
    found = {row["at"] for row in known}
    completed = sum(row["status"] == "completed" for row in known)
    twice = jobs - len({row["job"] for row in known if row["job"]})
    passed = not (set(expected) ^ found) and jobs == adapters == completed == len(expected) and not twice
    return {
        "passed": passed,
        "slots": len(expected),
        "missed": len(set(expected) - found),
        "trained_once": completed,
        "trained_twice": twice,
        "adapters": adapters,
        "jobs_with_more_than_one_attempt": sum(row["attempts"] > 1 for row in known),
        "dataset_versions": len({row["version"] for row in known}),
        "median_late_s": round(statistics.median(row["late_s"] for row in known), 2),
        "most_late_s": round(max(row["late_s"] for row in known), 2),
    }


def grow(path: Path, rows: int) -> None:
    """Add rows to the file, whole: written aside and renamed."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    first = before.count("\n")
    lines = [
        json.dumps({"prompt": f"colour of item {n}", "completion": f"item {n} is {('red', 'blue')[n % 2]}"})
        for n in range(first, first + rows)
    ]
    aside = path.with_suffix(".aside")
    aside.write_text(before + "\n".join(lines) + "\n", encoding="utf-8")
    aside.replace(path)


def make_base(folder: Path) -> Path:
    """A random Llama of 0.2 M parameters with a byte-level tokenizer and a chat template."""
    import torch  # noqa: PLC0415  (only this needs it)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415  (the same)
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415  (the same)

    special = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106  (no secret)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the colour of item number is red blue"], trainer)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.chat_template = (
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=len(wrapped), num_key_value_heads=2, max_position_embeddings=256, **shape, **ids)
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def machine() -> dict[str, Any]:
    """The machine in words, and how busy it was."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
         if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    return {"cores": os.cpu_count(), "cpu": model, "load": round(os.getloadavg()[0], 1)}


if __name__ == "__main__":
    main()
