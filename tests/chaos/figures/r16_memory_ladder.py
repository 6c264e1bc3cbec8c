"""R16: the device runs out of memory with more than two rows a pass; scheduling.retry's ladder decides what follows.

The error is torch's own, raised at a failpoint before a forward pass while the micro batch is above 2: from the first
step on, or only in mid-run. Everything else is real: the trainer's error with its facts, the ruling, the resumed run.
"""

import shutil
from pathlib import Path

from chaos.figure import figure
from chaos.real import Forge, Job, prepare, train_request

from celora.models.states import Stage
from celora.scheduling.retry import Failed, ruling
from celora.tuning.recipe import Adjusted, ResolvedRecipe

STEPS, SAVE, EFFECTIVE, MOST = 40, 5, 8, 2
NEAR = 1e-6


@figure(
    "R16",
    "Out of memory costs a smaller pass, not the run",
    f"out of memory above micro batch {MOST}, from 4 and 8, at the start and in mid-run: effective batch and steps "
    f"equal, final loss within {NEAR} of the run with that micro batch all along",
)
def ladder(bench):
    missed, worst, from_start, rungs = [], 0.0, 0.0, 0
    with Forge(bench.folder / "forge") as forge:
        data = prepare(forge, bench.folder)
        for micro in (4, 8):
            for fails_at in (1, 21):
                label = f"micro batch {micro}, out of memory from step {fails_at}"
                folder = bench.folder / f"{micro}-{fails_at}"
                passes = (fails_at - 1) * EFFECTIVE // micro + 1
                settings = {"max_steps": STEPS, "save_steps": SAVE, "micro_batch": micro, "dropout": 0.0}
                request = train_request(data, folder, **settings, accumulation=EFFECTIVE // micro)
                job = Job(folder / "ladder", request)
                answer, climbed, start = climb(forge, job, f"step.forward:oom>{MOST}@{passes}", missed, label)
                rungs += climbed
                if answer is None:
                    continue
                faults, result = compare(answer, climbed, fails_at), answer.of("done")[0]["result"]
                alike = all_along(forge, folder, request, start, result["resolved"])
                near = abs(alike["train_loss"] - result["train_loss"]) if start is None else 0.0
                last = abs(alike["last"] - answer.of("progress")[-1]["loss"])
                worst = max(worst, last, near)
                whole = forge.run(
                    Job(
                        folder / "two",
                        train_request(data, folder, **settings | {"micro_batch": MOST}, accumulation=EFFECTIVE // MOST),
                    ).next()
                )
                from_start = max(from_start, abs(whole.of("progress")[-1]["loss"] - answer.of("progress")[-1]["loss"]))
                faults += [f"final loss differs by {last:.2g}"] if last > NEAR else []
                missed += [f"{label}: {fault}" for fault in faults]
                bench.say(f"{label}: {climbed} rungs, final loss differs by {last:.2g}")
    return {
        "cases": 4,
        "rungs": rungs,
        "final_loss_differs_by": worst,
        "from_a_run_at_2_throughout": from_start,
    }, missed


def climb(forge, job, failpoints, missed, label):
    """Attempts until one comes through: the answer, how many rungs, and the checkpoint that it went on from."""
    changes, adjusted, last_micro = {}, None, 99
    for rung in range(6):
        request = job.next(adjusted=adjusted, **changes)
        answer = forge.run(request, failpoints=failpoints)
        if answer.of("done"):
            return answer, rung, request.resume_from
        facts = (answer.error or {}).get("facts", {})
        if (answer.error or {}).get("code") != "out_of_memory" or facts.get("micro_batch", 0) >= last_micro:
            missed.append(f"{label}: attempt {job.attempt} ended with {answer.code}: {answer.error}")
            return None, rung, None
        last_micro = facts["micro_batch"]
        ruled = ruling(Failed(stage=Stage.TRAIN, error=answer.error, recipe=facts), max_attempts=3, wait_s=0)
        adjusted = Adjusted.model_validate(ruled.adjusted)
        if answer.of("started") and job.newest():
            changes = {"resolved": ResolvedRecipe.model_validate(answer.of("started")[0]["resolved"])}
        failpoints = f"step.forward:oom>{MOST}"  # a pass too large fails at once from now on
    missed.append(f"{label}: no rung was low enough")
    return None, 6, None


def compare(answer, climbed, fails_at):
    """What is wrong with the run that came through."""
    result = answer.of("done")[0]["result"]
    resolved, steps = result["resolved"], [event["step"] for event in answer.of("progress")]
    begun = (fails_at - 1) // SAVE * SAVE
    faults = []
    if resolved["micro_batch"] * resolved["accumulation"] != EFFECTIVE or resolved["effective_batch"] != EFFECTIVE:
        faults.append(f"the effective batch became {resolved['micro_batch']} x {resolved['accumulation']}")
    if resolved["micro_batch"] != MOST or not climbed:
        faults.append(f"it ended at micro batch {resolved['micro_batch']} after {climbed} rungs")
    if (
        steps != list(range(begun + 1, STEPS + 1))
        or result["steps"] != result["planned_steps"]
        or result["steps"] != STEPS
    ):
        faults.append(f"it did steps {steps[:1]} to {steps[-1:]} of {STEPS}")
    return faults


def all_along(forge, folder, request, start, resolved):
    """The same run with that micro batch from the same checkpoint on, never out of memory."""
    attempt = folder / "alike"
    if start is not None:
        shutil.copytree(start, folder / "start" / Path(start).name)
        start = str(folder / "start" / Path(start).name)
    recipe = ResolvedRecipe.model_validate(resolved)
    answer = forge.run(request.model_copy(update={"out_dir": str(attempt), "resume_from": start, "resolved": recipe}))
    return {"last": answer.of("progress")[-1]["loss"], "train_loss": answer.of("done")[0]["result"]["train_loss"]}
