"""Submit from an application with Celery and without celora.

    pip install "celery[redis]"
    . ~/.celora/celora.env                          # `celora up` wrote the URLs there
    python examples/submit_from_foreign_app.py /data/train.jsonl

`link`, `link_error`, chains, groups and chords follow the job to its end, since the task id is the job id. Callbacks
are sent with the routing of celora's workers: give a callback its queue (``.set(queue="…")``) if your app uses another
than ``celery``.
"""

import os
import sys
from pathlib import Path

from celery import Celery

app = Celery("my-app", broker=os.environ["CELORA_BROKER_URL"], backend=os.environ["CELORA_RESULT_BACKEND"])
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])


def main() -> None:
    """Send one job by the task's name and wait for its end."""
    result = app.send_task(
        "celora.finetune",
        kwargs={
            "base_model": "smollm2-135m-instruct",
            "dataset": str(Path(sys.argv[1]).resolve()),
            "tenant": "my-app",
            "epochs": 1,
        },
        queue="celora",
    )
    print(f"job {result.id}: {result.state}")
    print(result.get())


if __name__ == "__main__":
    main()
