"""R19: the events of every job of every other figure, read by the history checker."""

import json

from chaos.figure import FIGURES, figure

MUST = ("R1", "R2", "R10", "R11")


@figure(
    "R19",
    "Every history is a legal path of the state machine, with one open attempt at a time",
    "0 illegal events over all jobs of the other figures",
)
def history(bench):
    from chaos.run import RESULTS

    total, missed, read = {"jobs": 0, "events": 0, "illegal": 0}, [], []
    for name in sorted(set(FIGURES) - {"R19"}):
        path = RESULTS / f"{name}.json"
        runs = json.loads(path.read_text())["runs"] if path.exists() else []
        judged = [run["histories"] for run in runs if run.get("histories", {}).get("jobs")]
        if not judged and name in MUST:
            missed.append(f"{name} has no result yet; run it first")
        if judged:
            read.append(name)
        for histories in judged:
            total = {key: count + histories.get(key, 0) for key, count in total.items()}
    missed += [f"{total['illegal']} events were illegal"] if total["illegal"] else []
    return {**total, "figures": read}, missed
