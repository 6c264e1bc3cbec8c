"""A storm: clients that cancel, pause, resume and retry at once, kills, and malformed traffic; each job ends once."""

import itertools
import threading
import time
from collections import Counter

from chaos.cluster import FINAL
from chaos.door import Door
from chaos.hostile_traffic import HostileTraffic
from chaos.installation import installation
from chaos.legal import faults_of
from chaos.oracle import faults
from chaos.storm import Storm
from hostile.attack import Attempt, kind

JOBS, CLIENTS, CALLS, KILLS, WAIT_S = 4, 3, 12, 2, 400
VERBS = ("pause", "resume", "pause", "resume", "retry", "cancel")
SETTINGS = {"CELORA_MAX_ATTEMPTS": "30"}


@kind("storm", "clients that submit, cancel, pause, resume and retry, kills, and malformed traffic", minutes=3)
def storm(dice, folder):
    """Each attempt is a round of jobs; the installation and the hostile traffic go on from round to round."""
    with (
        installation(folder, gpus=2, settings=SETTINGS) as cluster,
        HostileTraffic(cluster.environment["CELORA_BROKER_URL"], dice),
    ):
        for number in itertools.count(1):
            yield Attempt(f"round {number}", lambda number=number: hold_round(cluster, dice, number))


def hold_round(cluster, dice, number):
    """Submit jobs, let clients and kills loose on them, and judge how each ended."""
    twin = f"twin-{dice.randrange(10**9)}"
    ids = [*cluster.submit(JOBS, steps=60, save_steps=20), twin]
    retried, answers = [], Counter()
    seeds = [dice.random() for _ in range(CLIENTS)]
    clients = [threading.Thread(target=call, args=(cluster, type(dice)(seed), ids, retried, answers)) for seed in seeds]
    for client in clients:
        client.start()
    kills = Storm(cluster, dice, pause_s=(0.3, 1.5))
    kills.rage(KILLS, lambda: False)
    for client in clients:
        client.join()
    with Door(cluster) as door:
        for job_id in (*ids, *retried):
            door.ask("resume", job_id, None)
    jobs = cluster.wait_final([*ids, *retried], WAIT_S)
    cluster.wait_registered()
    ended = {job["id"]: job["status"] for job in jobs}
    wrong = faults(cluster, ids, status=lambda job: "cancelled" if job["status"] == "cancelled" else "completed")
    for job_id in retried:
        wrong += [f"{job_id}, a retry: {fault}" for fault in faults_of(cluster.events(job_id))]
        wrong += [f"{job_id}, a retry, is {ended[job_id]}"] if ended[job_id] not in FINAL[::2] else []
    assert wrong == [], f"{wrong}; answers {dict(answers)}"


def call(cluster, dice, ids, retried, answers):
    """One client: submits a job under the id of the others, then calls verbs; a refusal is an answer."""
    with Door(cluster) as door:
        door.submit(ids[-1], cluster.spec(steps=60, save_steps=20, seed=dice.randrange(100)))  # the others do so, too
        for _ in range(CALLS):
            verb = dice.choice(VERBS)
            told = door.ask(verb, dice.choice(ids), None)
            answers[f"{verb} {'done' if told['ok'] else 'refused'}"] += 1
            if verb == "retry" and told["ok"]:
                retried.append(told["answer"])
            time.sleep(dice.uniform(0, 0.5))
