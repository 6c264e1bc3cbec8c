"""A trainer host that speaks the protocol and trains nothing; the id of a job says what becomes of its run.

A stand-in for the program of a host, without torch: the supervisor and its tests see the same lines, locks and files.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

from celora.storage.file_lock import locked_if_free
from celora.storage.unix_socket import listen
from celora.tuning.trainer.host_messages import ExitReport, Final, Greeting, Refused, exit_path, line_of, lock_path

inside: list[str] = []


def serve(connection: socket.socket, greeting: Greeting) -> None:
    connection.sendall(line_of(greeting.model_copy(update={"runs": list(inside)})))
    message, logs, _, _ = socket.recv_fds(connection, 1 << 16, 1)
    received = connection.makefile("rb")
    if b'"leave"' in message:
        connection.close()
        os._exit(0)
    if b'"open"' not in message:
        connection.close()
        return
    _, _, rest = message.partition(b"\n")
    request = json.loads(rest if rest.endswith(b"\n") else rest + received.readline())
    job, attempt = request["job"], request["attempt"]
    run(connection, received, logs[0], job, attempt)


def run(connection: socket.socket, received, log: int, job: str, attempt: int) -> None:
    name = f"{job}:{attempt}"

    def tell(event, **facts):
        line = {"v": 1, "event": event, "job": job, "attempt": attempt, **facts}
        connection.sendall(json.dumps(line).encode() + b"\n")

    def leave(code):
        inside.remove(name)
        connection.sendall(line_of(Final(exit=code)))
        connection.close()

    if job == "refused":
        connection.sendall(line_of(Refused(refused="base", message="the base is not complete")))
        connection.close()
        return
    inside.append(name)
    Path(os.environ["MINI_HOST_RUNS"], f"{job}-{attempt}").write_text(str(os.getpid()))
    os.write(log, b"of the run\n")
    tell("phase", phase="training")
    if job == "dies":
        os.write(2, b"CUDA error: unspecified launch failure\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "done":
        tell("done", result={"pid": os.getpid()})
        leave(0)
        return
    for line in received:
        control = json.loads(line)
        if control["op"] == "kept":
            tell("done", result=control)
            leave(0)
            return
        if job != "hangs" and control["op"] in ("drain", "cancel"):
            tell("drained", step=7)
            leave(75)
            return
    inside.remove(name)


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--serve", "--owner", "--idle-s", "--device", "--threads", "--slots"):
        parser.add_argument(name)
    chosen = parser.parse_args()
    path, generation = Path(chosen.serve), uuid.uuid4().hex[:12]
    with locked_if_free(lock_path(path)) as lock:
        if lock is None:
            return 0
        child = os.fork()
        if child == 0:
            host(path, generation, chosen)
        _, status = os.waitpid(child, 0)
        path.unlink(missing_ok=True)
        code = os.waitstatus_to_exitcode(status)
        runs = [one.name.replace("-", ":") for one in Path(os.environ["MINI_HOST_RUNS"]).iterdir()]
        ended = ExitReport(generation=generation, code=code if code >= 0 else None, signal=-code if code < 0 else None,
                           runs=sorted(runs))  # fmt: skip
        exit_path(path, generation).write_bytes(line_of(ended))
    return 0


def host(path: Path, generation: str, chosen: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    facts = {
        "versions": {},
        "device": chosen.device,
        "threads": int(chosen.threads),
        "started_at": time.time(),
        "memory_bytes": 1000,
    }
    greeting = Greeting.model_validate({"generation": generation, "pid": os.getpid(), **facts})
    with listen(path) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, greeting), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
