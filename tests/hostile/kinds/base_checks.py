"""Malformed base models through ``celora check``: one sentence and its exit code, never a fault of celora, no hang."""

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from hostile.attack import Attempt, kind
from hostile.kinds.bases import make_base, make_gguf, mutation, place

MOST_S, MOST_CPU_S = 600.0, 60.0
"""Seconds of a check by the clock and of the processors: a check that waits for something reaches the first on any
machine, and a loaded machine reaches neither."""
ROWS = 24
EXPLAINED = (0, 64, 65, 69)
"""Exit codes of a good base, of a setting, of data and of a base that are refused."""
PROGRAM = "import sys; from celora.cli.app import main; sys.exit(main())"


@kind("base_checks", "malformed base models through celora check", minutes=3)
def base_checks(dice: random.Random, folder: Path) -> Generator[Attempt, None, None]:
    """Mutations of a base, each judged by a whole ``celora check``."""
    good, model = make_base(folder / "good"), make_gguf(folder / "gguf" / "model.gguf")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) + "\n" for n in range(ROWS)))
    assert check(good, rows, folder / "home")["code"] == 0
    while True:
        name, content = mutation(dice, good, model)
        yield Attempt(
            f"{name} as {content[:120]!r}",
            lambda n=name, c=content: is_explained(check(place(n, c, good, folder), rows, folder / "home")),
        )


def check(base: Path, rows: Path, home: Path) -> dict[str, object]:
    """Run ``celora check``; its exit code, its words and the processor time that it took."""
    command = [sys.executable, "-c", PROGRAM, "check", str(rows), "--base-model", str(base), "--json"]
    environment = {**os.environ, "CELORA_HOME": str(home), "CELORA_OFFLINE": "true", "OMP_NUM_THREADS": "1"}
    began = cpu_s()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=MOST_S, env=environment, errors="replace"
    )
    return {"code": done.returncode, "said": done.stderr[-2000:], "cpu_s": cpu_s() - began}


def cpu_s() -> float:
    """Processor time of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def is_explained(found: dict[str, object]) -> None:
    """The check ended with a code that celora explains, and names no fault of its own."""
    assert found["code"] in EXPLAINED, found
    assert "fault of celora" not in str(found["said"]), found
    assert "internal" not in str(found["said"]), found
    assert "Traceback" not in str(found["said"]), found
    assert float(str(found["cpu_s"])) < MOST_CPU_S, found
