"""What ``import celora.tasks`` costs a client application, against importing Celery itself.

Each import runs in a fresh interpreter; interleaved rounds, medians, seconds. The goal: at most 0.3 s more.
"""

import json
import statistics
import subprocess
import sys

ROUNDS = 9
PROGRAM = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def once(statement: str) -> float:
    """Seconds of one import in a fresh interpreter."""
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the medians as one JSON object."""
    celery_alone = "from celery import Celery; Celery('x').conf.broker_url"
    celora = "from celora.tasks import finetune"
    rounds = [(once(celery_alone), once(celora)) for _ in range(ROUNDS)]
    celery_s = statistics.median(first for first, _ in rounds)
    celora_s = statistics.median(second for _, second in rounds)
    added_s = statistics.median(second - first for first, second in rounds)
    print(json.dumps({"celery_s": round(celery_s, 3), "celora_s": round(celora_s, 3), "added_s": round(added_s, 3)}))


if __name__ == "__main__":
    main()
