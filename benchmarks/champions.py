"""The story of docs/champions.md on the real base: every command block of the page, run as it stands.

    python benchmarks/champions.py                 three trainings; prints what the commands print
    python benchmarks/champions.py --write         and keeps it in benchmarks/results/champions.txt and .json

It starts the whole system in a home of its own and stops it again. The claims at the end are read from the record: the
worse challenger was not promoted, the better one was, the roll-back restored the first.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docs"))

from pages import environment, run  # the module that runs any page

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "champions.md"
RESULTS = Path(__file__).parent / "results"


def claims(home: Path) -> dict[str, bool]:
    """What the record says about the three jobs of the page."""
    said = subprocess.run(
        ["celora", "champion", "history", "support-bot", "--json"],  # noqa: S607  (this environment's)
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    events: list[dict[str, Any]] = json.loads(said.stdout)
    story = [(each["kind"], each["job"]) for each in reversed(events)]
    return {
        "the first job beat the base and became champion": story[:1] == [("promoted", "first")],
        "the worse challenger was kept out": ("kept", "worse") in story and ("promoted", "worse") not in story,
        "the better challenger was promoted": ("promoted", "better") in story,
        "the roll-back restored the first": story[-1:] == [("rolled_back", "first")],
    }


def main() -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep what was printed below benchmarks/results")
    arguments = parser.parse_args()
    began, transcript = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="celora-champions-") as folder:
        home = Path(folder)
        up = subprocess.Popen(
            ["celora", "up"],  # noqa: S607  (this environment's)
            env=environment(home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for command, printed in run(PAGE.read_text(encoding="utf-8"), home, folder=ROOT):
                shown = f"$ {command.strip()}\n{printed.strip()}\n".replace(str(home), "$CELORA_HOME")
                print(shown, flush=True)
                transcript.append(shown)
            held = claims(home)
        finally:
            up.terminate()
            up.wait(timeout=120)
    facts = {
        "what": "docs/champions.md on smollm2-135m-instruct",
        "claims": held,
        "seconds": round(time.monotonic() - began),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[2]:.1f}",
    }
    print(json.dumps(facts, indent=1))
    if arguments.write:
        (RESULTS / "champions.txt").write_text("\n".join(transcript), encoding="utf-8")
        (RESULTS / "champions.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if not all(held.values()):
        raise SystemExit("a claim of the page did not hold")


if __name__ == "__main__":
    main()
