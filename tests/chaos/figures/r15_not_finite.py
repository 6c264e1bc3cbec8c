"""R15: a loss or a gradient that is no number, put into real training at ten steps."""

import math

from chaos.figure import figure
from chaos.real import Forge, Job, prepare, train_request

STEPS, SAVE = 40, 4
AT = (1, 2, 3, 5, 8, 13, 21, 30, 39, 40)


@figure(
    "R15",
    "No NaN reaches the weights, and none is published",
    f"a NaN loss or gradient at {len(AT)} steps: stopped within 1 step, 0 adapters, message with step and learning "
    "rate, the older checkpoint goes on",
)
def not_finite(bench):
    missed, stopped, adapters, told, resumed = [], 0, 0, 0, 0
    with Forge(bench.folder / "forge") as forge:
        data = prepare(forge, bench.folder)
        for step in AT:
            what = bench.dice.choice(["loss", "gradient"])
            job = Job(bench.folder / f"at-{step}", train_request(data, bench.folder, max_steps=STEPS, save_steps=SAVE))
            answer = forge.run(job.next(), poison={"step": step, "what": what})
            done, error = len(answer.of("progress")), answer.error or {}
            in_time = done == step - 1 and error.get("code") == "non_finite_loss" and answer.code == 70
            sentence = f"at step {step} of {STEPS} (learning rate " in error.get("message", "")
            kept = job.adapter_sha256() is not None or bool(answer.of("done"))
            newest = job.newest()
            expected = (step - 1) // SAVE * SAVE
            good = expected == 0 or (newest is not None and newest.name == f"step-{expected}")
            goes_on = good and (not expected or continues(forge, job, expected))
            stopped, adapters, told, resumed = stopped + in_time, adapters + kept, told + sentence, resumed + goes_on
            if not (in_time and sentence and goes_on) or kept:
                missed.append(
                    f"{what} at step {step}: {done} steps, code {answer.code}, {error.get('message')}, {newest}"
                )
            bench.say(f"{what} at step {step}: {error.get('message')}")
    return {
        "cases": len(AT),
        "stopped_within_a_step": stopped,
        "adapters": adapters,
        "told": told,
        "resumed": resumed,
    }, missed


def continues(forge, job, step):
    """Whether the checkpoint from before goes on to the end with finite numbers."""
    answer = forge.run(job.next())
    losses = [event["loss"] for event in answer.of("progress")]
    return answer.code == 0 and len(losses) == STEPS - step and all(map(math.isfinite, losses))
