"""R7: a thousand submits to a broker that is dead, frozen or behind a dead route, and to a database that is away.

The jobs of a thousand submits would take the workers half an hour, so every 25th asks for the GPU type that is there
and runs to its end; of the others, whose type has no worker, it is shown that each has its one row and waits.
"""

import statistics
from contextlib import ExitStack

from chaos.cluster import Cluster
from chaos.door import Door
from chaos.figure import figure
from chaos.oracle import faults
from chaos.proxy import Proxy
from chaos.servers import Postgres, Valkey, free_port

SUBMITS = {"dead": 400, "frozen": 300, "blackhole": 300}
REFUSED = {"dead": 100, "blackhole": 3}
RUNS = 25
"""Every so-manieth job runs."""
P99_S, WORST_S, REFUSED_S, DARK_S = 0.3, 1.0, 3.0, 8.0


@figure(
    "R7",
    "A submit needs the database and nothing else",
    f"1,000 submits while the broker is dead, frozen or blackholed: all accepted, p99 <= {P99_S} s, worst "
    f"<= {WORST_S} s, every {RUNS}th runs to its end and the others wait, each once; database dead: all refused "
    f"<= {REFUSED_S} s (blackholed <= {DARK_S:.0f} s), 0 jobs without a row, 0 rows without a job",
)
def submits(bench):
    numbers, missed = {}, []
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(bench.folder / "valkey"))
        postgres = stack.enter_context(Postgres(bench.folder / "postgres", port=free_port()))
        url = postgres.create("record")
        cluster = stack.enter_context(
            Cluster(bench.folder / "home", broker_url=valkey.url, database_url=url, settings={"CELORA_TICK_S": "1"})
        )
        accepted = []
        for how, count in SUBMITS.items():
            answers = through(cluster, valkey, how, count)
            missed += judge(how, answers, numbers)
            accepted += [answer["id"] for answer in answers if answer["ok"]]
            bench.say(f"broker {how}: {numbers[f'{how}_p99_s']} s at p99")
        for how, count in REFUSED.items():
            missed += refusals(cluster, postgres, how, count, numbers)
            bench.say(f"database {how}: refused within {numbers[f'database_{how}_worst_s']} s")
        rows = {job["id"] for job in cluster.jobs()}
        missed += [f"{len(set(accepted) - rows)} accepted jobs have no row"] if set(accepted) - rows else []
        missed += [f"{len(rows - set(accepted))} rows were promised to nobody"] if rows - set(accepted) else []
        running = [job["id"] for job in cluster.jobs(accepted) if job["spec"]["gpu"] == "cpu"]
        cluster.start(2)
        cluster.wait_final(running, 60 + 6 * len(running))
        missed += faults(cluster, running)
        waiting = [job for job in cluster.jobs(accepted) if job["spec"]["gpu"] != "cpu"]
        astray = [job["id"] for job in waiting if not waits(job)]
        missed += [f"{len(astray)} jobs that should wait for a GPU do not: {astray[:3]}"] if astray else []
        numbers |= {"accepted": len(accepted), "ran": len(running), "wait": len(waiting)}
    return numbers, missed


def through(cluster, valkey, how, count):
    """Submit through a broker that is harmed in one way; the answers."""
    with Proxy("127.0.0.1", valkey.port) as proxy:
        url = valkey.url.replace(f":{valkey.port}/", f":{proxy.port}/")
        with Door(cluster, {"CELORA_BROKER_URL": url, "CELORA_RESULT_BACKEND": url}) as door:
            if how == "frozen":
                valkey.freeze()
            else:
                proxy.mode = {"dead": "down", "blackhole": "blackhole"}[how]
            try:
                return [door.submit(f"{how}-{number}", asked(cluster, number)) for number in range(count)]
            finally:
                valkey.thaw()


def asked(cluster, number):
    """A job that runs, or one that waits for a GPU type without a worker."""
    runs = number % RUNS == 0
    return cluster.spec(steps=2, gpu="cpu" if runs else "h100", priority=10 if runs else -10)


def judge(how, answers, numbers):
    """What was promised, and how long it took."""
    seconds = sorted(answer["seconds"] for answer in answers)
    p50, p99, worst = statistics.median(seconds), seconds[int(len(seconds) * 0.99)], seconds[-1]
    numbers |= {f"{how}_p50_s": round(p50, 3), f"{how}_p99_s": p99, f"{how}_worst_s": worst}
    refused = [answer for answer in answers if not answer["ok"]]
    missed = [f"broker {how}: {len(refused)} submits were refused: {refused[0]}"] if refused else []
    missed += [f"broker {how}: p99 {p99} s"] if p99 > P99_S else []
    return missed + ([f"broker {how}: one took {worst} s"] if worst > WORST_S else [])


def refusals(cluster, postgres, how, count, numbers):
    """Submit while the database is away; every one must be refused, soon."""
    limit_s = REFUSED_S if how == "dead" else DARK_S
    with Proxy("127.0.0.1", postgres._port) as proxy:
        url = cluster.database_url.split("?")[0].replace("@/", f"@127.0.0.1:{proxy.port}/")
        with Door(cluster, {"CELORA_DATABASE_URL": url}) as door:
            if how == "dead":
                postgres.stop_immediately()
            else:
                proxy.mode = "blackhole"
            try:
                answers = [door.submit(f"no-{how}-{number}", cluster.spec(steps=2)) for number in range(count)]
            finally:
                if how == "dead":
                    postgres.start()
    worst = max(answer["seconds"] for answer in answers)
    numbers[f"database_{how}_worst_s"] = worst
    codes = {(answer["error"] or {}).get("code") for answer in answers}
    missed = [f"database {how}: answers {codes}"] if codes != {"unavailable"} else []
    return missed + ([f"database {how}: one took {worst} s"] if worst > limit_s else [])


def waits(job):
    """Prepared or not yet, but on no GPU."""
    return job["status"] in ("pending", "queued", "running") and job["stage"] in ("prepare", "train")
