"""R3: a run that is killed again and again, against the same run that nobody touched; every number to the bit.

The undisturbed run is the trainer program itself; the interrupted one is a new process after each kill, forked from one
that has only imported the libraries (forge.py), at a random moment: loading, in a step, evaluating, saving.
"""

import json
import signal
import time

from chaos.figure import figure
from chaos.real import Forge, Job, prepare, program, trace, train_request

KILLS, STEPS, SAVE, LOADING = 20, 90, 3, 0.1
CONFIGURATIONS = {
    "shuffle": {"dropout": 0.0, "accumulation": 1},
    "packing": {"dropout": 0.0, "packing": True, "micro_batch": 1},
    "accumulation": {"dropout": 0.0, "micro_batch": 1, "accumulation": 4},
    "dropout": {"dropout": 0.1},
}


@figure(
    "R3",
    "Resuming equals never having been interrupted",
    f"{KILLS} SIGKILLs at random moments in each of {len(CONFIGURATIONS)} configurations (shuffle, packing, "
    "accumulation, dropout) x fp32, NF4: loss, gradient norm and learning rate at every step and the adapter's "
    "SHA-256 equal to the uninterrupted run's",
)
def resume(bench):
    missed, kills, redone, equal = [], 0, 0, 0
    with Forge(bench.folder / "forge") as forge:
        data = prepare(forge, bench.folder)
        for quantization in ("none", "nf4"):
            for name, recipe in CONFIGURATIONS.items():
                label = f"{name} {'fp32' if quantization == 'none' else 'NF4'}"
                settings = {"max_steps": STEPS, "save_steps": SAVE, "quantization": quantization, **recipe}
                met, again, faults = interrupted(bench, forge, data, label.replace(" ", "-"), settings)
                kills, redone, equal = kills + met, redone + again, equal + (not faults)
                missed += [f"{label}: {fault}" for fault in faults]
                bench.say(f"{label}: {met} kills, {again} steps done again, {'equal' if not faults else faults[:2]}")
    return {"kills": kills, "runs": 2 * len(CONFIGURATIONS), "runs_equal": equal, "steps_redone": redone}, missed


def interrupted(bench, forge, data, label, settings):
    """One configuration: kills met, steps done more than once, and what was not equal."""
    folder = bench.folder / label
    whole, events = Job(folder / "whole", train_request(data, folder, **settings)), folder / "whole.jsonl"
    folder.mkdir()
    code = program(whole.next(), events)
    expected = trace(map(json.loads, events.read_text().splitlines()))
    if code or len(expected) != STEPS:
        return 0, 0, [f"the uninterrupted run ended with {code} after {len(expected)} steps"]
    job, met, again, faults, seen = Job(folder / "killed", train_request(data, folder, **settings)), 0, 0, [], {}
    while True:
        answer = forge.begin(job.next())
        met += met < KILLS and strike(bench.dice, answer)
        answer.end()
        for step, numbers in trace(answer.events).items():
            again += step in seen
            faults += [f"step {step}: {numbers}, and {expected[step]} uninterrupted"] * (numbers != expected[step])
            seen[step] = numbers
        if answer.of("done"):
            break
        if answer.code != -signal.SIGKILL:
            return met, again, [*faults, f"attempt {job.attempt} ended with {answer.code}: {answer.error}"]
    faults += [f"only {met} kills met the run"] if met < KILLS else []
    faults += [f"{STEPS - len(seen)} steps were never told"] if len(seen) < STEPS else []
    faults += [f"a checkpoint was rejected: {rejected}" for rejected in job.rejected]
    if job.adapter_sha256() is None or job.adapter_sha256() != whole.adapter_sha256():
        faults.append("the adapters differ")
    return met, again, faults


def strike(dice, answer):
    """Kill it at a random moment, one time in ten while it loads; whether it was still alive."""
    if dice.random() < LOADING:
        time.sleep(dice.uniform(0, 0.5))
    else:
        steps = dice.randrange(5)
        answer.until(lambda: answer.of("started") and len(answer.of("progress")) >= steps)
        time.sleep(dice.uniform(0, 0.05))
    return answer.kill()
