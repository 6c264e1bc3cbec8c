# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""Chats of many clients at once, and a training beside an answer host that nobody asks.

Starts the API with a record of its own. First, clients that all ask at once, each some questions one after another, of
the real SmolLM2-135M-Instruct (NF4): seconds of each answer (median, 95th percentile), failures, tokens a second. Then
trainings of the same base in pairs, with the answer host loaded and idle, and without one: the ratio of the seconds
from the first step to the last. Prints one JSON object; ``--write`` keeps it. Other load spoils the figures. No further
pair begins that would end after ``--within-s``, so that a run takes eight minutes at most on two idle cores. The exit
code is 1 if an answer failed, or if the median pair exceeds the bound of 1.10.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "chat.json"
BASE = "smollm2-135m-instruct"
QUESTION = "Name three colours of the rainbow."
MOST_SLOWDOWN = 1.10
"""Largest ratio of the training times with an idle host and without one."""


def main() -> None:
    """Measure chats, then paired trainings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--questions", type=int, default=3, help="of each client, one after another")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer at most")
    parser.add_argument("--steps", type=int, default=20, help="of a training")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of trainings")
    parser.add_argument("--within-s", type=float, default=450.0, help="seconds for the whole run")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.within_s
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CELORA_HOME"] = scratch
        machine = f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} at the start"
        answers = chats(arguments.clients, arguments.questions, arguments.tokens)
        print(f"chats: {json.dumps(answers)}", file=sys.stderr)  # the trainings take minutes
        training = trainings(Path(scratch), arguments.steps, arguments.rounds, deadline)
    report = {"machine": machine, "chats": answers, "training": training}
    print(json.dumps(report, indent=1))
    if arguments.write:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    exceeded = [f"{answers['refused']} answers failed"] if answers["refused"] else []
    exceeded += [f"a training takes {training['median']} times as long"] if training["median"] > MOST_SLOWDOWN else []
    if exceeded:
        sys.exit(f"exceeded: {'; '.join(exceeded)}")


@contextmanager
def api() -> Generator[int]:
    """Run the API on a port of its own, without a broker."""
    from celora.models.database import get_database  # noqa: PLC0415  (after CELORA_HOME)
    from celora.workers.node.ports import free_port  # noqa: PLC0415

    get_database().migrate()
    port = free_port()
    environment = {**os.environ, "CELORA_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "celora.cli", "api", "--port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not listens(port):
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def listens(port: int) -> bool:
    """Check if the API answers."""
    try:
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200  # noqa: PLR2004  (OK)
    except OSError:
        return False


def ask(port: int, tokens: int) -> tuple[float, int]:
    """Ask one question; return the seconds, and the tokens of the answer, -1 for a refusal."""
    began = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"model": BASE, "temperature": 0, "max_tokens": tokens, "messages": [{"role": "user", "content": QUESTION}]}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    return time.perf_counter() - began, found["usage"]["completion_tokens"] if "usage" in found else -1


def chats(clients: int, questions: int, tokens: int) -> dict[str, Any]:
    """Measure clients that ask at once."""
    with api() as port:
        first_s, written = ask(port, tokens)
        alone = [ask(port, tokens)[0] for _ in range(3)]
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(lambda _: [ask(port, tokens) for _ in range(questions)], range(clients)))
        took_s = time.perf_counter() - began
    seconds = sorted(one for answer in answers for one, _ in answer)
    counts = [count for answer in answers for _, count in answer]
    return {
        "clients": clients,
        "answers": len(seconds),
        "refused": counts.count(-1),
        "tokens_of_an_answer": written,
        "first_answer_with_start_and_load_s": round(first_s, 2),
        "alone_s": round(statistics.median(alone), 2),
        "median_s": round(statistics.median(seconds), 2),
        "p95_s": round(seconds[int(0.95 * (len(seconds) - 1))], 2),
        "tokens_per_s": round(sum(count for count in counts if count > 0) / took_s, 1),
    }


def trainings(scratch: Path, steps: int, rounds: int, deadline: float) -> dict[str, Any]:
    """Measure trainings in pairs, one at least, before the deadline; the order within a pair changes each round."""
    prepared = prepare(scratch, steps)
    pairs: list[dict[str, float]] = []
    longest_s = 0.0
    for number in range(rounds):
        began = time.monotonic()
        if pairs and began + longest_s > deadline:
            break
        pair: dict[str, float] = {}
        for kind in ("beside a host", "alone")[:: 1 if number % 2 else -1]:
            if kind == "alone":
                pair[kind] = train(scratch, prepared, steps)
            else:
                with api() as port:
                    ask(port, 1)
                    pair[kind] = train(scratch, prepared, steps)
        pairs.append(pair)
        longest_s = max(longest_s, time.monotonic() - began)
    ratios = [pair["beside a host"] / pair["alone"] for pair in pairs]
    return {
        "steps": steps,
        "seconds": [{kind: round(value, 2) for kind, value in pair.items()} for pair in pairs],
        "beside_an_idle_host_to_alone": [round(ratio, 3) for ratio in ratios],
        "median": round(statistics.median(ratios), 3),
    }


def prepare(scratch: Path, steps: int) -> dict[str, Any]:
    """Prepare the rows of the trainings."""
    from celora.tuning.protocol import PrepareRequest  # noqa: PLC0415  (after CELORA_HOME)
    from celora.workers.trainer.supervisor import run_once  # noqa: PLC0415

    rows = scratch / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"say {n}", "completion": f"{n}!"}) + "\n" for n in range(64)))
    request = PrepareRequest(
        job="bench",
        attempt=1,
        cache_dir=str(scratch / "cache"),
        base_model=BASE,
        dataset=str(rows),
        eval_fraction=0,
        recipe=recipe(steps),
        seed=0,
        out_dir=str(scratch / "prepared"),
    )
    return run_once(request, lambda _: None, log=scratch / "prepare.log", environment={})


def recipe(steps: int) -> Any:
    """The recipe of the trainings."""
    from celora.tuning.recipe import Recipe  # noqa: PLC0415  (after CELORA_HOME)

    return Recipe(max_steps=steps, effective_batch=4)


def train(scratch: Path, prepared: dict[str, Any], steps: int) -> float:
    """Train, and return the seconds from the first step to the end of the last."""
    from celora.tuning.protocol import HubAccess, TrainRequest  # noqa: PLC0415  (after CELORA_HOME)
    from celora.workers.trainer.supervisor import run_once  # noqa: PLC0415

    out = Path(tempfile.mkdtemp(dir=scratch))
    request = TrainRequest(
        job="bench",
        attempt=1,
        cache_dir=str(scratch / "cache"),
        hub=HubAccess(offline=True),
        base=prepared["base"],
        prepared_dir=str(scratch / "prepared"),
        recipe=recipe(steps),
        seed=0,
        out_dir=str(out),
    )
    marks: list[float] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            marks.append(time.perf_counter())

    run_once(request, note, log=out / "log", environment={})
    return marks[-1] - marks[0]


if __name__ == "__main__":
    main()
