"""How Flower runs beside celora: `celery -A celora.workers flower --conf=flower/flowerconfig.py`.

This folder has no ``__init__.py`` on purpose: with one it would shadow the flower package itself. Flower reads this
file as plain assignments and knows the names that its own options have.

Flower sees the queue and its workers, nothing else. Whoever is in can revoke any task, so it listens on this machine
only and always asks for a password; /metrics and /healthcheck answer without one (Flower 2.2 has no option for it).
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Any

_home = Path(os.environ.get("CELORA_HOME") or Path.home() / ".celora").expanduser().absolute()
_state = _home / "flower"
_state.mkdir(parents=True, exist_ok=True)
_login = os.environ.get("CELORA_FLOWER_AUTH", "")
if not _login:
    _login = f"celora:{secrets.token_urlsafe(12)}"
    print(f"flower: CELORA_FLOWER_AUTH is not set; this time the login is {_login}", file=sys.stderr)  # noqa: T201

address = "127.0.0.1"
basic_auth = [_login]

# Without its state on disk, Flower forgets the name of every task that was running when it restarted.
persistent = True
db = str(_state / "state")
state_save_interval = 10_000
max_tasks = 100_000

# A worker that loads a model answers late; the default of one second calls it missing.
inspect_timeout = 5_000.0
purge_offline_workers = 86_400

# A stage runs for minutes to a day, and the default buckets end at ten seconds.
task_runtime_metric_buckets = [1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0]
tasks_columns = "name,uuid,state,kwargs,received,started,runtime,worker,root_id"
natural_time = False


def format_task(task: Any) -> Any:
    """Show of the arguments what fits a table; the record has the rest (`celora status ID`)."""
    limit = 160
    if task.kwargs and len(task.kwargs) > limit:
        task.kwargs = task.kwargs[:limit] + "…"
    return task
