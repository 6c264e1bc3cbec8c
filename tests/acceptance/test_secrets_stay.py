"""Planted secrets run through real jobs and are found nowhere they don't belong; what an attacker sends runs nowhere.

One installation for all of it: PostgreSQL, the embedded broker, every worker, beat, Flower, logs in JSON, the
production profile. Watched all the while: every command that reaches the broker (MONITOR), and /proc.
"""

import base64
import http.client
import json
import os
import pickle
import secrets
import socket
import threading
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis
import yaml
from sqlalchemy import MetaData, create_engine, func, select, text

pytestmark = pytest.mark.slow


def made(prefix, count, letters="ABCDEFGHJKLMNPQRSTUVWXYZ23456789"):
    return prefix + "".join(secrets.choice(letters) for _ in range(count))


HUB, TRACKER, BUCKET_ID, BUCKET = made("hf_", 34), made("", 40), made("AKIA", 16), made("", 40)
DATABASE, STORED = made("", 24), made("", 30)
IN_ROWS = [made("hf_", 34), made("sk-", 40), made("AKIA", 16)]
IN_BAD_ROW, SENT, PICKLED = made("hf_", 34), made("sk-proj-", 40), made("ghp_", 36)
ENVIRONMENT = {
    "HF_TOKEN": HUB,
    "WANDB_API_KEY": TRACKER,
    "AWS_ACCESS_KEY_ID": BUCKET_ID,
    "AWS_SECRET_ACCESS_KEY": BUCKET,
    "CELORA_LOG_FORMAT": "json",
    "CELORA_PROFILE": "production",
    "CELORA_TICK_S": "5",
    "CELORA_REAPER_S": "5",
}
OUTPUT = {"prepared", "evaluation", "checkpoints", "adapter", "fetched", "trackers"}
"""Folders of a job's artifacts, which hold its rows and what was made of them: there they belong."""


@pytest.fixture(scope="module")
def postgres(postgres_url):
    engine = create_engine(postgres_url.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS canary WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE canary"))
    yield postgres_url.format("canary").replace("celora@", f"celora:{DATABASE}@")
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE canary WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(scope="module")
def planted(tmp_path_factory, postgres, base):
    """The installation after a good job and a refused one, with everything that was watched meanwhile."""
    import live_installation as tools

    home = tmp_path_factory.mktemp("canary")
    from celora.settings.secrets import Secrets

    Secrets(home).set("WANDB_API_KEY", STORED)
    environment = {**ENVIRONMENT, "CELORA_DATABASE_URL": postgres}
    installation, patch = tools.start(home, environment, flower=True, spare=False)
    watch = None
    try:
        broker = installation._broker._process.pid  # it writes its title over its environment

        def processes():
            return [*tools.processes_of(home), (broker, Path(f"/proc/{broker}/cmdline").read_bytes())]

        watch = Watch(installation._broker.operator_url, processes)
        running = tools.Running(installation)
        running.watch, running.patch = watch, patch
        running.good, running.bad = run_jobs(running, base, tmp_path_factory.mktemp("data"))
        yield running
    finally:
        if watch is not None:
            watch.stop()
        tools.stop(installation, patch)


def run_jobs(running, base, folder):
    """A job whose rows hold secrets, and one whose data is refused at a row that holds one."""
    rows = [
        {"instruction": f"item {n} {IN_ROWS[n % 3]}", "output": f"item {n} {IN_ROWS[(n + 1) % 3]}"} for n in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "bad.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[:5])
        + f'{{"instruction": "{IN_BAD_ROW}", "output": [{IN_BAD_ROW}\n'
    )
    spec = {
        "base_model": str(base), "dataset": str(folder / "rows.jsonl"), "eval_fraction": 0.2, "max_steps": 2,
        "micro_batch": 2, "effective_batch": 2, "rank": 4, "eval_max_new_tokens": 4, "tenant": "canary",
    }  # fmt: skip
    good = running.send(spec)
    bad = running.send({**spec, "dataset": str(folder / "bad.jsonl")})
    assert running.wait(good.id, lambda job: job["status"] in ("completed", "failed"))["status"] == "completed"
    assert running.wait(bad.id, lambda job: job["status"] in ("completed", "failed"))["status"] == "failed"
    return good, bad


class Watch:
    """What passes through the broker, and the command lines and trainers' environments of a home's processes."""

    def __init__(self, broker_url, processes):
        self._parts, self._processes = urlsplit(broker_url), processes
        self.traffic, self.command_lines, self.trainers = bytearray(), set(), {}
        self._stop = threading.Event()
        self._socket = socket.create_connection((self._parts.hostname, self._parts.port), timeout=1)
        self._socket.sendall(f"AUTH {self._parts.username} {self._parts.password}\r\nMONITOR\r\n".encode())
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._listen, self._look)]
        for thread in self._threads:
            thread.start()

    def _listen(self):
        while not self._stop.is_set():
            try:
                self.traffic += self._socket.recv(1 << 20)
            except TimeoutError:
                continue

    def _look(self):
        while not self._stop.wait(0.1):
            for pid, command in self._processes():
                self.command_lines.add(command)
                if b"celora.tuning.trainer" in command and pid not in self.trainers:
                    try:
                        self.trainers[pid] = Path(f"/proc/{pid}/environ").read_bytes()
                    except OSError:
                        continue

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()


def known(running):
    """Every secret of the installation, by what it is called here."""
    flower = running.service("flower").environment
    login = flower.get("CELORA_FLOWER_AUTH") or flower["FLOWER_BASIC_AUTH"]
    return {
        "hub token": HUB, "tracker key": TRACKER, "stored tracker key": STORED, "bucket key id": BUCKET_ID,
        "bucket key": BUCKET, "database password": DATABASE,
        "broker password": urlsplit(running.settings.broker_url).password,
        "workers' broker password": urlsplit(running.settings.broker).password,
        "Flower password": login.partition(":")[2],
        **{f"secret {n} of the rows": secret for n, secret in enumerate(IN_ROWS)}, "secret of the bad row": IN_BAD_ROW,
    }  # fmt: skip


def spellings(secret):
    """A secret as it is, in a URL, in hexadecimal, and inside longer base64 (kombu's bodies), wherever it starts."""
    plain = secret.encode()
    yield plain
    yield quote(secret, safe="").encode()
    yield plain.hex().encode()
    for lead in range(3):
        whole = b64encode(b"x" * lead + plain)
        yield whole[(lead * 8 + 5) // 6 : (lead + len(plain)) * 8 // 6]


def found(secrets_, places):
    """Which secrets lie in which places: ``what in where``."""
    return [
        f"{what} in {where}"
        for where, content in places.items()
        for what, secret in secrets_.items()
        if any(spelling in content for spelling in spellings(secret))
    ]


def test_the_look_for_secrets_sees_them_in_every_spelling():
    secret = {"it": "hunter2-and-more"}
    for wrapped in (
        b"a hunter2-and-more b",
        b64encode(b'{"x": "hunter2-and-more"}'),
        b"hunter2-and-more".hex().encode(),
    ):
        assert found(secret, {"here": wrapped}) == ["it in here"]
    for lead in range(6):
        assert found(secret, {"here": b64encode(b"y" * lead + b"hunter2-and-more tail")}) == ["it in here"]
    assert found(secret, {"here": b"hunter2-and-les"}) == []


def test_the_secrets_are_where_they_belong_so_that_the_look_elsewhere_means_something(planted):
    home = planted.settings.home
    assert STORED in (home / "secrets.json").read_text()
    assert DATABASE in (home / "celora.env").read_text()
    prepared = [path.read_text(errors="replace") for path in (home / "artifacts").rglob("*.jsonl")]
    assert any(IN_ROWS[1] in content for content in prepared)
    assert "[secret masked]" in json.dumps(planted.job(planted.good.id)["evaluation"]["samples"])


def test_no_secret_went_through_the_broker_or_lies_in_it(planted):
    with redis.Redis.from_url(planted.installation._broker.operator_url) as client:
        lying = b"\n".join(key + b" " + value_of(client, key) for key in client.scan_iter())
        assert planted.good.id.encode() in lying
    traffic = bytes(planted.watch.traffic)
    assert b"celora.train" in traffic
    assert found({"an event": "task-succeeded"}, {"traffic": traffic}) != [], "events are part of it, in base64"
    assert found(known(planted), {"keys": lying, "traffic": traffic}) == []


def value_of(client, key):
    read = {
        b"string": lambda: client.get(key),
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: sorted(client.smembers(key)),
        b"hash": lambda: client.hgetall(key),
        b"zset": lambda: client.zrange(key, 0, -1),
    }
    return repr(read.get(client.type(key), lambda: "")()).encode()


def test_no_secret_lies_in_the_record(planted):
    with record(planted) as (connection, tables):
        content = {
            f"table {name}": repr(list(connection.execute(select(table)))).encode() for name, table in tables.items()
        }
    assert planted.good.id.encode() in content["table job"]
    assert len(content) > 10
    assert found(known(planted), content) == []


def test_no_secret_lies_in_a_log_a_receipt_or_flowers_memory(planted):
    home = planted.settings.home
    kept = [path for path in files(home / "artifacts") if not OUTPUT & set(path.relative_to(home).parts)]
    service = [*files(home / "logs"), *files(home / "flower"), home / "broker" / "server.log"]
    names = {path.name for path in kept}
    assert {"receipt.json", "001-prepare.log", "001-train.log"} <= names, names
    assert len(service) > 5
    assert found(known(planted), {str(path): path.read_bytes() for path in [*kept, *service]}) == []


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_no_secret_is_in_a_command_line_and_a_trainer_has_only_what_its_job_names(planted):
    assert len(planted.watch.trainers) >= 3, "prepare, train and evaluate of one job, prepare of the other"
    lines = b"\n".join(planted.watch.command_lines)
    assert b"beat" in lines
    assert b"valkey" in lines
    environments = {f"trainer {pid}": content for pid, content in planted.watch.trainers.items()}
    assert all(b"CELORA_HOME=" in content for content in environments.values())
    assert found(known(planted), {"command lines": lines, **environments}) == []


def test_no_secret_is_in_the_figures_or_in_what_people_and_callers_are_told(planted):
    with pytest.raises(Exception, match="line 6") as refusal:
        planted.bad.get(timeout=240)
    told = {
        "figures": planted.run("celora", "metrics", "--once"),
        "status": json.dumps([planted.job(one.id) for one in (planted.good, planted.bad)], default=str),
        "refusal": str(refusal.value),
        "result": json.dumps(planted.good.get(timeout=240)),
    }
    assert "celora_jobs" in told["figures"]
    assert found(known(planted), {where: content.encode() for where, content in told.items()}) == []


def test_no_secret_is_on_a_page_of_flower_or_in_its_api(planted):
    flower = planted.service("flower")
    port = next(int(word.partition("=")[2]) for word in flower.command if word.startswith("--port="))
    worker = f"cpu-0@{socket.gethostname()}"
    task = f"{planted.good.id}.train.1"
    about = [f"/task/{planted.good.id}", *(f"/api/task/{what}/{planted.good.id}" for what in ("info", "result"))]
    views = ["/", "/workers", f"/worker/{worker}", "/tasks", "/broker", "/metrics", "/api/tasks", "/api/queues/length"]
    pages = [*about, *views, "/api/workers?refresh=1", f"/api/task/result/{planted.bad.id}"]
    answers = {page: asked(port, page, flower.environment) for page in pages}
    assert {status for status, _ in answers.values()} <= {200, 404}, {page: s for page, (s, _) in answers.items()}
    assert [status for status, _ in answers.values()].count(200) >= 10
    assert task.encode() in answers["/api/tasks"][1]
    assert worker.encode() in answers["/api/workers?refresh=1"][1]
    assert found(known(planted), {page: content for page, (_, content) in answers.items()}) == []


def asked(port, page, environment):
    login = environment.get("CELORA_FLOWER_AUTH") or environment["FLOWER_BASIC_AUTH"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", page, headers={"Authorization": f"Basic {b64encode(login.encode()).decode()}"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


# --- logs ---


def log_lines(planted):
    """Every line of the workers' and beat's logs, by file."""
    for path in sorted((planted.settings.home / "logs").glob("*.log")):
        if path.stem not in ("flower", "check"):
            for line in path.read_text().splitlines():
                yield path.stem, line


def test_every_line_of_every_log_is_json_and_says_what_it_is_about(planted):
    lines = [(name, json.loads(line)) for name, line in log_lines(planted)]
    names = {name for name, _ in lines}
    assert {"control", "prep", "cpu-0", "beat"} <= names
    for name, line in lines:
        assert {"time", "level", "logger", "message", "process"} <= line.keys(), (name, line)
        assert line["time"].endswith("+00:00")
    workers = {line.get("worker", "").partition("@")[0] for name, line in lines if name != "beat"}
    assert {"control", "prep", "cpu-0"} <= workers
    of_the_job = [line for _, line in lines if line.get("job") == planted.good.id]
    assert {"prepare", "train", "evaluate", "publish"} <= {line.get("stage") for line in of_the_job}
    assert {line["attempt"] for line in of_the_job if "attempt" in line} == {1}
    failed = [line for _, line in lines if line.get("job") == planted.bad.id and "exception" in line]
    assert failed, "the refusal of the bad row is a record with its exception"
    assert "canary" in {line.get("tenant") for _, line in lines}


# --- an attacker who can write to the broker ---


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self._path,))


def message(queue, task, body, *, content_type="application/json", encoding="utf-8", **headers):
    """A message as kombu lays it into Redis."""
    message_id = headers.pop("id", f"attack-{secrets.token_hex(4)}")
    reads = {"argsrepr": "()", "kwargsrepr": "{}", "lang": "py", "retries": 0, "timelimit": [None, None]}
    named = {"task": task, "id": message_id, "root_id": message_id, "group": None}
    way = {"delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": message_id, "delivery_mode": 2}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": content_type,
            "content-encoding": encoding,
            "headers": {**reads, **named, **headers},
            "properties": {"correlation_id": message_id, "priority": 0, "body_encoding": "base64", **way},
        }
    )


def body(kwargs, **embedded):
    nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps([[], kwargs, {**nothing, **embedded}]).encode()


def attacks(queue, job_id, tripwire):
    """By name, what whoever can write to the broker may try on a queue; pickles and yaml make a folder if they run."""
    pickled = pickle.dumps(Runs(tripwire / f"{queue}-pickle"))
    shell = f"!!python/object/apply:os.mkdir ['{tripwire}/{queue}-yaml']".encode()
    forged = {"task": "celora.publish", "args": [], "kwargs": {"job_id": job_id, "attempt": 1}, "options": {}}
    large = json.dumps([[], {"base_model": "x" * 10_000_000}, {}]).encode()
    wrong = {"job_id": job_id, "attempt": 99}
    return {
        "pickle": message(queue, "celora.tick", pickled, content_type="application/x-python-serialize",
                          encoding="binary"),
        "pickle, by its short name": message(queue, "celora.tick", pickled, content_type="pickle", encoding="binary"),
        "pickle that says it is JSON": message(queue, "celora.tick", pickled, encoding="binary"),
        "yaml": message(queue, "celora.tick", shell, content_type="application/x-yaml"),
        "msgpack": message(queue, "celora.tick", b"\x93\x90\x80\x80", content_type="application/x-msgpack",
                           encoding="binary"),
        "an unknown format": message(queue, "celora.tick", b"<x/>", content_type="text/xml"),
        "an unknown task": message(queue, "os.system", body({"command": f"mkdir {tripwire}/{queue}-task {SENT}"})),
        "a pickled secret": message(queue, "celora.tick", pickle.dumps(PICKLED),
                                    content_type="application/x-python-serialize", encoding="binary"),
        "a forged chain": message(queue, "celora.train", body(wrong, chain=[forged])),
        "a wrong attempt": message(queue, "celora.train", body(wrong)),
        "a finished stage": message(queue, "celora.train", body({"job_id": job_id, "attempt": 1})),
        "no such job": message(queue, "celora.evaluate", body({"job_id": "../../etc/passwd", "attempt": 1})),
        "10 MB for an unknown task": message(queue, "no.such", large),
        "10 MB for a task": message(queue, "celora.finetune", large, id=f"large-{queue.replace('.', '-')}"),
        "no list": message(queue, "celora.tick", b'{"a": 1}'),
        "not kombu's": json.dumps({"body": 1}),
        "no JSON at all": "\x00not json",
    }  # fmt: skip


def test_yaml_and_pickle_would_run_if_they_were_read(tmp_path):
    pickle.loads(pickle.dumps(Runs(tmp_path / "pickle")))  # noqa: S301  (to show what the next test sends)
    yaml.load(f"!!python/object/apply:os.mkdir ['{tmp_path}/yaml']", Loader=yaml.UnsafeLoader)  # noqa: S506  (the same)
    assert {path.name for path in tmp_path.iterdir()} == {"pickle", "yaml"}


def test_nothing_that_an_attacker_sends_runs_and_every_worker_lives_on(planted, tmp_path):
    services = {service.name: service.process.pid for service in planted.installation.node.services.all}
    before = content_of(planted, {planted.good.id, planted.bad.id})
    with redis.Redis.from_url(planted.installation._broker.operator_url) as client:
        for queue in ("celora", "prep", "gpu.cpu"):
            for sent in attacks(queue, planted.good.id, tmp_path).values():
                client.lpush(queue, sent)
        planted.until(lambda: not any(client.llen(queue) for queue in ("celora", "prep", "gpu.cpu")))
    answer = planted.foreign.control.inspect(timeout=2)
    planted.until(lambda: len(answer.ping() or {}) == 3)
    assert list(tmp_path.iterdir()) == []
    assert {s.name: s.process.pid for s in planted.installation.node.services.all if s.alive()} == services
    planted.until(lambda: len(rejected(planted)) == 3)  # 10 MB for a task, on each queue
    assert content_of(planted, {planted.good.id, planted.bad.id}) == before
    assert all(size < 10_000 for size in rejected(planted))
    again = planted.send({"base_model": "x", "dataset": "relative.jsonl"})
    with pytest.raises(Exception, match="dataset"):
        again.get(timeout=240)
    logs = {path.name: path.read_bytes() for path in files(planted.settings.home / "logs")}
    assert b"os.system" in logs["control.log"], "Celery writes what it did not know, and with it what it held"
    assert found({"a sent secret": SENT, "a pickled secret": PICKLED}, logs) == []


@contextmanager
def record(planted):
    engine = create_engine(planted.settings.database.replace("postgresql://", "postgresql+psycopg://"))
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        yield connection, tables.tables
    engine.dispose()


def content_of(planted, jobs):
    """The rows of these jobs, and how many attempts, adapters and checkpoints there are of all."""
    with record(planted) as (connection, tables):
        job = tables["job"]
        rows = connection.execute(select(job).where(job.c.id.in_(jobs)).order_by(job.c.id))
        counted = [connection.scalar(select(func.count()).select_from(tables[name]))
                   for name in ("attempt", "adapter", "checkpoint")]  # fmt: skip
        return repr(list(rows)), counted


def rejected(planted):
    """How large the row of each refused submission is."""
    with record(planted) as (connection, tables):
        job = tables["job"]
        return [len(repr(row)) for row in connection.execute(select(job).where(job.c.id.like("large-%")))]
