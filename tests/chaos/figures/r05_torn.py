"""R5: SIGKILL while a checkpoint is being written, again and again; stock saving leaves a torn newest one in a third.

Each process trains a LoRA that is large for its base and saves at every step. It is killed once its staged folder is
there, after a random part of the time that a save takes, so that the kill falls into any of its phases: adapter,
optimizer, manifest, flush, rename, and the pruning that follows. Then the next one has to find a checkpoint that
verifies, not older than the last one that was told of, and train on from it.
"""

import shutil
import signal
import time
from pathlib import Path

from chaos.figure import figure
from chaos.real import Forge, Job, prepare, train_request

KILLS, STEPS, RANK = 200, 60, 512


@figure(
    "R5",
    "A kill inside a save costs that checkpoint and nothing else",
    f"{KILLS} SIGKILLs inside a save: 0 failed resumes, 0 told checkpoints lost, adapters equal to the uninterrupted "
    "run's",
)
def torn(bench):
    missed, inside, half, runs, failed = [], 0, 0, 0, 0
    with Forge(bench.folder / "forge") as forge:
        data = prepare(forge, bench.folder)
        request = train_request(
            data, bench.folder, max_steps=STEPS, save_steps=1, rank=RANK, dropout=0.1, eval_steps=STEPS
        )
        calm = Job(bench.folder / "calm", request)
        answer = forge.run(calm.next())
        save_s = typical_save_s(answer)
        size = answer.of("checkpoint")[0]["size_bytes"]
        bench.say(f"a checkpoint has {size / 2**20:.1f} MiB, and its save takes {save_s / 1.5:.3f} s")
        while inside < KILLS:
            runs += 1
            job, told, last = Job(bench.folder / f"run-{runs}", request), 0, None
            while last is None or not last.of("done"):
                last = forge.begin(job.next())
                if inside < KILLS:
                    met, torn_now = strike(bench.dice, last, job, save_s)
                    inside, half = inside + met, half + torn_now
                last.end()
                told = max([told, *(event["step"] for event in last.of("checkpoint"))])
                newest = job.newest()
                found = int(newest.name.removeprefix("step-")) if newest else 0
                if found < told:
                    missed.append(
                        f"run {runs}, attempt {job.attempt}: step {told} was told of, and {found} is the newest"
                    )
                if last.code not in (0, -signal.SIGKILL):
                    failed += 1
                    missed.append(f"run {runs}, attempt {job.attempt} ended with {last.code}: {last.error}")
                    break
                tidy(job, newest)
            if last.of("done") and job.adapter_sha256() != calm.adapter_sha256():
                missed.append(f"run {runs}: the adapters differ")
            missed += [f"run {runs}: {path} was rejected: {reason}" for path, reason in job.rejected]
            bench.say(
                f"run {runs} ended in attempt {job.attempt}; {inside} kills inside a save, {half} left a staged folder"
            )
    return {
        "kills_inside_a_save": inside,
        "left_a_staged_folder": half,
        "failed_resumes": failed,
        "runs": runs,
        "checkpoint_bytes": size,
    }, missed


def strike(dice, answer, job, save_s):
    """Kill it while it saves: whether it was met in a save, and whether a staged folder was left."""
    root = job.folder / f"attempt-{job.attempt}" / "checkpoints"
    skip = dice.randrange(3)
    answer.until(lambda: len(answer.of("checkpoint")) >= skip and any(root.glob(".tmp-*")))
    time.sleep(dice.uniform(0, save_s))
    told = len(answer.of("checkpoint"))
    if not answer.kill():
        return False, False
    left = any(root.glob(".tmp-*"))
    steps, saved = len(answer.of("progress")), len(answer.of("checkpoint"))
    return left or steps > saved or saved > told, left


def typical_save_s(answer):
    """Seconds that a save takes, by the times of its first and its last file."""
    times = [path.stat().st_mtime for path in Path(answer.of("checkpoint")[-1]["path"]).iterdir()]
    return max(0.02, 1.5 * (max(times) - min(times)))


def tidy(job, newest):
    """Remove attempts that nothing goes on from."""
    for attempt in job.folder.glob("attempt-*"):
        if newest is not None and attempt not in newest.parents and attempt.name != f"attempt-{job.attempt}":
            shutil.rmtree(attempt)
