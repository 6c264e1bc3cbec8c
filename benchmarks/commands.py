"""Measures the short commands: wall time and CPU time of ``status``, ``list``, ``queues``, ``workers``.

Each command runs in a fresh process on a record with one job, in interleaved rounds beside an interpreter that imports
SQLAlchemy's ORM, Typer and pydantic alone, which no command can do without. On an idle machine each command answers in
at most 1.0 s (median of five); on a busy one only the ratio to the bare imports says something.

`python benchmarks/commands.py` prints one JSON object and writes it to benchmarks/results/commands.json.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5
RESULT = Path(__file__).parent / "results" / "commands.json"
BARE = [sys.executable, "-c", "import pydantic_settings, sqlalchemy.orm, typer, rich.table"]
COMMANDS = {"status": ["status", "one"], "list": ["list"], "queues": ["queues"], "workers": ["workers"]}


def spent(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu_s


def main() -> None:
    """Print and keep the medians."""
    program = str(Path(sys.executable).with_name("celora"))
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "CELORA_HOME": home, "PYTHONPYCACHEPREFIX": f"{home}/bytecode"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        write = (
            "from celora.models.database import get_database; from celora.models.jobs import accept;"
            "from celora.models.scope.scope import Scope; from celora.models.spec import parse_spec;"
            "database = get_database(); database.migrate();"
            "spec = parse_spec({'base_model': 'tiny', 'dataset': '/data/rows.jsonl'})\n"
            "with database.transaction(Scope.everything) as session: accept.submit(session, job_id='one', spec=spec)"
        )
        subprocess.run([sys.executable, "-c", write], env=environment, check=True)
        lines = {"bare imports": BARE, **{name: [program, *words] for name, words in COMMANDS.items()}}
        for line in lines.values():
            spent(line, environment)  # writes the bytecode
        rounds = [{name: spent(line, environment) for name, line in lines.items()} for _ in range(ROUNDS)]
    bare_s = statistics.median(each["bare imports"][1] for each in rounds)
    found = {
        name: {
            "wall_s": round(statistics.median(each[name][0] for each in rounds), 3),
            "cpu_s": round(statistics.median(each[name][1] for each in rounds), 3),
            "of_bare_imports": round(statistics.median(each[name][1] for each in rounds) / bare_s, 2),
        }
        for name in lines
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
