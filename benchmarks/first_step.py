"""From ``apply_async`` to the first training step, cold: what a caller waits for beside the training itself.

Starts an installation in a fresh home, submits small jobs one after another through Celery, and reads from the record
when each stage began and when the first step was done. The base is the real SmolLM2-135M-Instruct; the first job also
pays for its conversion and quantization, which are cached. Seconds; the median of the jobs after the first.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from celora.models.scope.scope import Scope

JOBS = 4


def main() -> None:
    """Print the medians as one JSON object."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["CELORA_HOME"] = home
        from celora.workers.node.installation import Installation  # noqa: PLC0415  (reads CELORA_HOME at import)

        with Installation(flower=False, api=False):
            runs = [one(number, Path(home)) for number in range(JOBS)]
    print(json.dumps({"first_job": runs[0], "median_of_the_rest": {k: median(runs[1:], k) for k in runs[0]}}))


def one(number: int, home: Path) -> dict[str, float]:
    """Submit a job and return the seconds from its submission to each milestone."""
    from celora.models import queries  # noqa: PLC0415  (reads CELORA_HOME at import)
    from celora.models.database import get_database  # noqa: PLC0415  (the same)
    from celora.tasks import finetune  # noqa: PLC0415  (the same)

    rows = home / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"say {n}", "completion": f"{n}!"}) + "\n" for n in range(64)))
    spec = {
        "base_model": "smollm2-135m-instruct",
        "dataset": str(rows),
        "max_steps": 2,
        "effective_batch": 4,
        "eval_max_rows": 0,
        "seed": number,
    }
    started = time.time()
    result = finetune.apply_async(kwargs=spec)
    result.get(timeout=600)
    with get_database().session(Scope.everything) as session:
        events = list(queries.events(session, result.id))
    marks = {f"{e['data']['stage']}_started_s": e["at"] for e in events if e["kind"] == "stage_started"}
    marks["first_step_s"] = next(e["at"] for e in events if e["kind"] == "first_step")
    return {name: round(at.timestamp() - started, 2) for name, at in marks.items()}


def median(runs: list[dict[str, float]], name: str) -> float:
    """The median of one figure."""
    return round(statistics.median(run[name] for run in runs), 2)


if __name__ == "__main__":
    main()
