"""Paths and races: names that lead out of the allowed folders, special files, names that change while they are read.

The file outside holds a secret. An attempt holds if no reading of a name ever yields the secret, and none waits.
"""

import json
import os
import random
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from hostile.attack import Attempt, kind
from hostile.kinds.bases import make_base

from celora.errors import BaseModelError, CeloraError, DataError
from celora.storage.regular_files import open_confined, pinned

SECRET = "the secret of the file outside"
ROW = json.dumps({"prompt": "a", "completion": "b"})
MOST_S = 60.0
"""Seconds that a reading may wait on a loaded computer; a FIFO without a writer would wait for ever."""
FLIPS = 150


class Room:
    """An allowed folder with a good file and a base, a folder outside with a secret and another base."""

    def __init__(self, folder: Path) -> None:
        self.allowed, self.outside, self.cache = folder / "allowed", folder / "outside", folder / "cache"
        make_base(self.allowed / "base")
        make_base(self.outside / "base")
        config = self.outside / "base" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "secret": SECRET}))
        self.good, self.secret = self.allowed / "rows.jsonl", self.outside / "rows.jsonl"
        self.good.write_text(ROW + "\n")
        self.secret.write_text(json.dumps({"prompt": SECRET, "completion": SECRET}) + "\n")
        (self.allowed / "in").symlink_to("rows.jsonl")
        (self.allowed / "out").symlink_to(self.secret)
        (self.allowed / "folder-out").symlink_to(self.outside)
        (self.allowed / "climbs").symlink_to("../outside/rows.jsonl")
        (self.allowed / "chain-1").symlink_to("chain-2")
        (self.allowed / "chain-2").symlink_to("out")
        (self.allowed / "loop").symlink_to("loop")
        (self.allowed / "process").symlink_to("/proc/self/environ")
        (self.allowed / "descriptor").symlink_to("/proc/self/fd/0")
        (self.allowed / "zero").symlink_to("/dev/zero")
        os.mkfifo(self.allowed / "fifo")
        self.make_folders()
        with socket.socket(socket.AF_UNIX) as bound:
            here = os.open(self.allowed, os.O_PATH)
            bound.bind(f"/proc/self/fd/{here}/socket")
            os.close(here)

    def make_folders(self) -> None:
        """Folders of parts, one of them good, the others each with one part that must not be read."""
        parts: dict[str, Callable[[Path], object]] = {
            "parts": lambda part: part.write_text(ROW + "\n"),
            "parts-leak": lambda part: part.symlink_to(self.secret),
            "parts-fifo": os.mkfifo,
            "parts-process": lambda part: part.symlink_to("/proc/self/environ"),
        }
        for name, make in parts.items():
            (self.allowed / name).mkdir()
            (self.allowed / name / "a.jsonl").write_text(ROW + "\n")
            make(self.allowed / name / "b.jsonl")

    def readings(self) -> dict[str, Callable[[str], bytes]]:
        """The ways in which celora reads a file that somebody names."""
        return {"open_confined": self.read, "pinned": self.read_pinned, "fetching": self.read_fetched}

    def read(self, source: str) -> bytes:
        """As a schedule reads its file."""
        with open_confined(source, [self.allowed]) as file:
            return file.read(2**16)

    def read_pinned(self, source: str) -> bytes:
        """As ``prepare`` reads its files: by a link, some time after the judgement."""
        link = self.cache / f"link-{time.monotonic_ns()}"
        link.parent.mkdir(exist_ok=True)
        with pinned(source, [self.allowed], link) as path:
            return path.read_bytes()

    def read_fetched(self, source: str) -> bytes:
        """As the trainer program reads a job's dataset."""
        from celora.tuning.files.source_files import fetching
        from celora.tuning.protocol import PrepareRequest, SourceAccess
        from celora.tuning.recipe import Recipe

        request = PrepareRequest(
            job="job", attempt=1, cache_dir=str(self.cache), base_model="x", dataset=source, recipe=Recipe(), seed=1,
            out_dir=str(self.cache / "out"), sources=SourceAccess(local_roots=[str(self.allowed)]),
        )  # fmt: skip
        return fetching(lambda local, _emit: content_of(Path(local.dataset)))(request, lambda *_, **__: None)

    def read_base(self, source: str) -> bytes:
        """As a trainer reads a base: its configuration, after the judgement."""
        from celora.tuning.bases import base
        from celora.tuning.protocol import HubAccess

        access = HubAccess(offline=True, local_roots=[str(self.allowed)])
        found = base.resolve(source, None, self.cache, access, lambda *_, **__: None)
        return (base.folder(found, self.cache, access, lambda *_, **__: None) / "config.json").read_bytes()


def content_of(source: Path) -> bytes:
    """The bytes of a dataset that was laid out: of a file, or of all parts of a folder."""
    if not source.is_dir():
        return source.read_bytes()
    return b"".join(part.read_bytes() for part in sorted(source.rglob("*")) if not part.is_dir())


NAMES = (
    *("rows.jsonl", "in", "out", "folder-out/rows.jsonl", "climbs", "chain-1", "loop", "process", "descriptor", "zero"),
    *(
        "parts",
        "parts-leak",
        "parts-fifo",
        "parts-process",
        "parts*/*.jsonl",
        "parts-*/b.jsonl",
        "*.jsonl",
        "**/*.jsonl",
    ),
    *(
        "folder-out/*.jsonl",
        "folder-*/*",
        "[op]*/../rows.jsonl",
        "fifo",
        "socket",
        "base",
        "base/config.json",
        "../outside/rows.jsonl",
        "nothing",
        ".",
        "",
    ),
)
TURNS = (
    *("/", "//", "/./", "/base/../", "/folder-out/../allowed/", "/in/../", "/../allowed/"),
    *("/%2e%2e/", "/\x00/", "/\n/"),
)
PREFIXES = ("", "file://", "file:", "~", "*", "\ud800", "s3://x", "hub:a/b", "a" * 300 + "/")


def survives(room: Room, read: Callable[[str], bytes], source: str) -> None:
    """Read a name: it yields the allowed row, a base's file, or a refusal in one sentence, at once."""
    began = time.monotonic()
    try:
        content = read(source)
    except (DataError, BaseModelError):
        content = b""
    assert SECRET.encode() not in content, f"{source!r} yields the secret"
    assert b"PATH=" not in content, f"{source!r} yields the environment"
    rows_alone = set(content.splitlines()) <= {ROW.encode()}
    assert rows_alone or b"model_type" in content or b"vocab" in content, content[:200]
    assert time.monotonic() - began < MOST_S, "it waited"


def flipped(room: Room, read: Callable[[str], bytes], path: Path, change: Callable[[Path, bool], None]) -> None:
    """Read a name again and again while another thread makes it point inside and outside in turn."""
    with flipping(path, change):
        for _ in range(FLIPS):
            try:
                content = read(str(path))
            except (CeloraError, OSError) as error:
                content = str(error).encode()
            assert SECRET.encode() not in content, "a reading in the race yields the secret"


@contextmanager
def flipping(path: Path, change: Callable[[Path, bool], None]) -> Generator[None]:
    """Exchange a name in a thread for the block; it points inside before and after."""
    stop = threading.Event()

    def run() -> None:
        inside = False
        while not stop.is_set():
            change(path, inside)
            inside = not inside

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        change(path, True)  # noqa: FBT003  (it points inside again)


def exchange(room: Room, inside: Path, outside: Path) -> Callable[[Path, bool], None]:
    """A change that makes a name a link to one of two places, by a rename, as an attacker would."""

    def change(path: Path, is_inside: bool) -> None:  # noqa: FBT001  (called by ``flipping`` alone)
        aside = room.allowed / f".aside-{threading.get_ident()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(inside if is_inside else outside)
        aside.rename(path)

    return change


@kind("paths", "names that lead out of the allowed folders, special files, races", minutes=2)
def paths(dice: random.Random, folder: Path) -> Generator[Attempt, None, None]:
    """Every name by every reading, then the races, then names that are made of odd parts."""
    room = Room(folder)
    assert room.read(str(room.good)) == room.good.read_bytes()
    assert b"model_type" in room.read_base(str(room.allowed / "base"))
    for way, read in {**room.readings(), "base": room.read_base}.items():
        for name in NAMES:
            source = f"{room.allowed}/{name}"
            yield Attempt(f"{way} of {name!r}", lambda r=read, s=source: survives(room, r, s))
    yield from races(room)
    while True:
        way, read = dice.choice(list({**room.readings(), "base": room.read_base}.items()))
        parts = "".join(dice.choice(TURNS) + dice.choice(NAMES) for _ in range(dice.randint(1, 3)))
        source = f"{dice.choice(PREFIXES)}{room.allowed}{parts}"
        yield Attempt(f"{way} of {source[-120:]!r}", lambda r=read, s=source: survives(room, r, s))


def races(room: Room) -> Generator[Attempt, None, None]:
    """The name of a file, the folder above it, and the files of a base change while they are read."""
    name, above = room.allowed / "race.jsonl", room.allowed / "race"
    files, folders = exchange(room, room.good, room.secret), exchange(room, room.allowed, room.outside)
    files(name, True)  # noqa: FBT003
    folders(above, True)  # noqa: FBT003
    for way, read in room.readings().items():
        yield Attempt(f"{way} of a link in a race", lambda r=read: flipped(room, r, name, files))
        yield Attempt(
            f"{way} below a folder in a race",
            lambda r=read: flipped(room, lambda source: r(f"{source}/rows.jsonl"), above, folders),
        )
    mine = room.allowed / "racing-base"
    shutil.copytree(room.allowed / "base", mine)
    config = exchange(room, room.allowed / "base" / "config.json", room.outside / "base" / "config.json")
    config(mine / "config.json", True)  # noqa: FBT003
    yield Attempt(
        "a base whose configuration is in a race",
        lambda: flipped(room, lambda _: room.read_base(str(mine)), mine / "config.json", config),
    )
    whole, base = room.allowed / "race-base", exchange(room, room.allowed / "base", room.outside / "base")
    base(whole, True)  # noqa: FBT003
    yield Attempt("a base whose folder is in a race", lambda: flipped(room, room.read_base, whole, base))
    assert stat.S_ISFIFO((room.allowed / "fifo").stat().st_mode)
