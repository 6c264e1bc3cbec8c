"""A kind of attack: a generator that yields attempts from a seed, endlessly or as many as there are.

    @kind("messages", "malformed messages to a worker", minutes=3)
    def messages(dice, folder):
        with WorkerAlone(folder) as worker:
            while True:
                made = mutation(dice)
                yield Attempt(f"{made.name} to celora", lambda made=made: worker.survives(made))

An attempt is a title and a function. The function makes the attempt and raises (``assert``) where celora did not hold;
its sentence becomes the line of the report. A generator prepares what its attempts share (a worker, a base), and
releases it in ``finally`` or ``with``: the runner closes the generator when its time or number of attempts is over. The
modules of ``kinds/`` register their kinds when they are imported. ``make attack`` runs every kind for its minutes
(``run_attack.py``); ``make test`` runs a fixed number of attempts of each with one seed (``hold``).
"""

import importlib
import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

KINDS: dict[str, "Kind"] = {}
SEED = 20261130
"""Seed of the short part."""
MOST_LETTERS = 2000


@dataclass(frozen=True)
class Attempt:
    """One attack.

    Attributes:
        title: Names the attempt; with the seed it is enough to find the attempt again.
        make: Makes the attempt; raises where celora did not hold.
    """

    title: str
    make: Callable[[], None]


Attempts = Callable[[random.Random, Path], Generator[Attempt, None, None]]


@dataclass(frozen=True)
class Kind:
    """A kind of attack.

    Attributes:
        name: One word, as in ``make attack ARGS=messages``.
        claim: Describes the attack in a few words.
        minutes: Time in the long part, against that of the other kinds.
        attempts: Yields the attempts; takes dice with the seed and an empty folder.
    """

    name: str
    claim: str
    minutes: float
    attempts: Attempts


@dataclass
class Outcome:
    """The result of a kind: how many attempts held, and a sentence for each that did not."""

    held: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        """How many attempts were made."""
        return self.held + len(self.broken)


def kind(name: str, claim: str, *, minutes: float) -> Callable[[Attempts], Attempts]:
    """Register a generator as a kind of attack."""

    def register(attempts: Attempts) -> Attempts:
        if name in KINDS:
            raise ValueError(f"there are two kinds of the name {name}")
        KINDS[name] = Kind(name, claim, minutes, attempts)
        return attempts

    return register


def load_kinds() -> dict[str, Kind]:
    """Import every module of ``kinds/`` and return the registered kinds by name."""
    for module in sorted((Path(__file__).parent / "kinds").glob("*.py")):
        importlib.import_module(f"hostile.kinds.{module.stem}")
    return KINDS


def attack(
    one: Kind,
    seed: int,
    folder: Path,
    *,
    most: int | None = None,
    within_s: float | None = None,
    broke: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """Make a kind's attempts until one of the limits is reached or there are no more.

    Args:
        one: The kind.
        seed: Chooses the attempts.
        folder: An empty folder of this run.
        most: Most attempts.
        within_s: Seconds after which no further attempt begins.
        broke: Called with the sentence of each attempt that broke something, at once.
    """
    outcome, began = Outcome(), time.monotonic()
    with closing(one.attempts(random.Random(f"{one.name} {seed}"), folder)) as attempts:
        for attempt in _limited(attempts, most):
            if fault := _fault_of(attempt):
                outcome.broken.append(fault)
                broke(fault)
            else:
                outcome.held += 1
            if within_s is not None and time.monotonic() - began > within_s:
                break
    return outcome


def hold(name: str, folder: Path, *, most: int, seed: int = SEED) -> None:
    """Make a kind's first attempts in a test, and fail with everything that broke."""
    outcome = attack(load_kinds()[name], seed, folder, most=most)
    assert outcome.broken == [], "\n".join(outcome.broken)
    assert outcome.attempts > 0, f"{name} yields no attempt"


def _limited(attempts: Iterator[Attempt], most: int | None) -> Iterator[Attempt]:
    for number, attempt in enumerate(attempts, 1):
        yield attempt
        if number == most:
            return


def _fault_of(attempt: Attempt) -> str:
    try:
        attempt.make()
    except Exception as error:  # noqa: BLE001  (whatever an attempt raises is what broke)
        return f"{attempt.title}: {type(error).__name__}: {error}"[:MOST_LETTERS]
    return ""
