"""Attacks celora for about fifteen minutes a seed: ``make attack``, or ``ARGS="messages --seeds 1 2 3"`` for some.

Prints attempts, held and broken of each kind and seed, and each attempt that broke something with its seed. The exit
code is 1 if anything broke.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from hostile.attack import Kind, Outcome, attack, load_kinds  # noqa: E402  (found on the path of the line before)

ROW = "{:<18} {:>10} {:>9} {:>6} {:>7} {:>6}  {}"


def main() -> int:
    """Run the kinds that were asked for, print the table, return the exit code."""
    kinds = load_kinds()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"of {', '.join(kinds)}; all unless given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="each chooses other attempts")
    parser.add_argument("--minutes", type=float, default=15.0, help="of all kinds together, a seed; each has its share")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.kinds) - set(kinds)):
        parser.error(f"there is no kind {', '.join(unknown)}; there are {', '.join(kinds)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = [kinds[name] for name in arguments.kinds or kinds]
    share = arguments.minutes / sum(one.minutes for one in kinds.values())
    lines = [run(one, seed, share) for seed in arguments.seeds for one in wanted]
    print(ROW.format("kind", "seed", "attempts", "held", "broken", "s", ""))
    print("\n".join(line for line, _ in lines))
    broken = sum(len(outcome.broken) for _, outcome in lines)
    print(f"{sum(outcome.attempts for _, outcome in lines)} attempts, {broken} broken")
    return 1 if broken else 0


def run(one: Kind, seed: int, share: float) -> tuple[str, Outcome]:
    """Run one kind with one seed."""
    print(f"{one.name}, seed {seed}: {one.claim}", file=sys.stderr, flush=True)
    began = time.monotonic()

    def broke(fault: str) -> None:
        print(f"  BROKEN {one.name}, seed {seed}: {fault}", file=sys.stderr, flush=True)

    prefix = f"celora-attack-{one.name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        try:
            outcome = attack(one, seed, Path(folder), within_s=60 * one.minutes * share, broke=broke)
        except Exception as error:  # noqa: BLE001  (a kind that cannot go on counts as broken, and the others go on)
            outcome = Outcome(broken=[f"the kind itself: {type(error).__name__}: {error}"])
            broke(outcome.broken[0])
    if not outcome.attempts:
        outcome.broken.append("the kind itself made no attempt")
    seconds = time.monotonic() - began
    counts = (outcome.attempts, outcome.held, len(outcome.broken), round(seconds))
    return ROW.format(one.name, seed, *counts, "" if not outcome.broken else "BROKEN"), outcome


if __name__ == "__main__":
    sys.exit(main())
