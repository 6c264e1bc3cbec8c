"""Runs the answer host: a process that listens at a unix socket, and imports the libraries at its first request.

    python -m celora.tuning.answering --socket PATH --cache FOLDER --device cpu --idle-s 600

``celora up`` starts the host with the option ``--stay``: it waits for the lock and for the first client as long as it
takes. Where no host listens, the HTTP API starts one at the first chat, and holds the other end of its standard input;
that host ends when its standard input ends (its owner is gone). Both leave after the idle time. Of several hosts that
are started for one socket, the one that gets the lock beside it listens.
"""

import argparse
import contextlib
import gc
import os
import select
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...storage.file_lock import locked, locked_if_free
from ...storage.unix_socket import listen

if TYPE_CHECKING:
    from .client import Client
    from .host import Answer
    from .messages import AnswerRequest


def main(argv: list[str] | None = None) -> int:
    """Serve the socket, unless another process does; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m celora.tuning.answering", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the converted and quantized bases")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--idle-s", type=float, required=True)
    parser.add_argument(
        "--stay", action="store_true", help="wait for the lock, and for the first client without an end"
    )
    chosen = parser.parse_args(argv)
    os.umask(0o077)
    lock = chosen.socket.with_suffix(".lock")
    with locked(lock) if chosen.stay else locked_if_free(lock) as held:
        if held is not None:
            _serve(chosen)
    return 0


def _serve(chosen: argparse.Namespace) -> None:
    if not chosen.stay:
        threading.Thread(target=_leave_with_owner, daemon=True, name="owner").start()
    with listen(chosen.socket) as listener:
        if chosen.stay:
            select.select([listener], [], [])  # until a client connects, which is not taken yet
        from .host import AnswerHost  # noqa: PLC0415  (pydantic's messages; nobody needs them before a client)

        AnswerHost(listener, _Model(chosen.cache, chosen.device), chosen.idle_s).serve()
        chosen.socket.unlink(missing_ok=True)


def _leave_with_owner() -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 1 << 10):
            pass
    os._exit(0)


class _Model:
    """Loads the libraries and the model at the first request, so that the socket is there at once."""

    def __init__(self, cache: Path, device: str) -> None:
        self._cache, self._device = cache, device
        self._answer: Answer | None = None

    def __call__(self, request: "AnswerRequest", client: "Client") -> None:
        if self._answer is None:
            gc.disable()  # see tuning/garbage_collector.py
            from .render_limit import limited  # noqa: PLC0415  (the templates' library)
            from .resident import Resident  # noqa: PLC0415  (torch takes seconds to import)

            gc.freeze()
            gc.enable()
            rendering = partial(limited, device=self._device)
            self._answer = Resident(self._cache, self._device, rendering).answer
        self._answer(request, client)
