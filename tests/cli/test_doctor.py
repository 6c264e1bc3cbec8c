"""``celora doctor`` finds what is planted: real servers, real files, real clocks, and each time its fix."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from chaos.servers import Postgres, Valkey
from sqlalchemy import text

from celora.doctor import broker as doctor_broker
from celora.models import workers as worker_rows
from celora.models.database import Database, get_database, now
from celora.models.jobs import accept
from celora.models.jobs.reaper_watch import watch
from celora.models.migrations import schema
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Worker
from celora.settings.secrets import Secrets
from celora.settings.settings import get_settings
from celora.workers.gpu import driver

KINDS = {"control": ["celora"], "prep": ["prep"], "gpu": ["gpu.cpu"]}


OF_THE_MACHINE = {"disk", "limits.files"}
"""Checks of what the machine that runs the tests has: little room or few files there are a warning, and true."""


@pytest.fixture
def look(celora):
    """Runs ``celora doctor --quick``; the findings by check. Its exit code is compared with them."""

    def run(*words):
        result = celora("doctor", "--quick", "--json", *words)
        findings = result.json()["findings"]
        failed = any(finding["level"] == "fail" for finding in findings)
        assert result.exit_code == int(failed), result.stderr
        assert all(finding["fix"] for finding in findings if finding["level"] != "ok")
        return {finding["check"]: finding for finding in findings}

    return run


@pytest.fixture
def valkey(tmp_path, monkeypatch):
    """A broker of this test's own, to be harmed."""
    with Valkey(tmp_path / "own") as server:
        monkeypatch.setenv("CELORA_BROKER_URL", server.application_url)
        monkeypatch.setenv("CELORA_WORKER_BROKER_URL", server.worker_url)
        get_settings.cache_clear()
        yield server


@pytest.fixture
def postgres(new_postgres, monkeypatch):
    """The URL of an empty PostgreSQL database, which is the record."""
    url = new_postgres()
    monkeypatch.setenv("CELORA_DATABASE_URL", url)
    get_settings.cache_clear()
    return url


@pytest.fixture
def workers():
    """Registers a control, a prep and a GPU worker, as a running installation has them, and lets a reaper look."""

    def register(host="here", **fields):
        database = get_database()
        database.migrate()
        with database.transaction(Scope.everything) as session:
            watch(session, "reaper", lapse_s=60)
            for kind, queues in KINDS.items():
                given = {"host": host, "pid": 1, "queues": queues, "versions": {"celora": version("celora")}, **fields}
                gpu_type = "cpu" if kind == "gpu" else None
                worker_rows.register(session, f"{kind}@{host}", kind=kind, gpu_type=gpu_type, **given)
        return database

    return register


def failures(findings):
    return {name for name, finding in findings.items() if finding["level"] == "fail"}


def test_a_healthy_installation_has_no_fault(look, valkey, postgres, workers):
    workers()
    found = look()
    not_well = {name: finding for name, finding in found.items() if finding["level"] != "ok"}
    assert not_well.keys() <= OF_THE_MACHINE, not_well
    assert failures(found) == set()
    assert {"home", "disk", "storage", "secrets.files", "broker.eviction", "results", "record.tables", "clock",
            "workers", "queues", "reaper", "gpu"} <= set(found)  # fmt: skip
    assert found["workers"]["found"] == "3 online (1 control, 1 gpu, 1 prep)"


def test_a_machine_on_which_nothing_was_started_yet_has_no_fault(look, monkeypatch, new_home):
    monkeypatch.delenv("CELORA_BROKER_URL")
    found = look()
    assert failures(found) == set()
    assert "celora up" in found["broker"]["fix"]
    assert found["record"]["level"] == "warn"
    assert not new_home.exists()


def test_a_broker_that_is_down(look, valkey):
    valkey.kill()
    broker = look()["broker"]
    assert broker["level"] == "fail"
    assert f"127.0.0.1:{valkey.port}" in broker["found"]
    assert "CELORA_BROKER_URL" in broker["fix"]
    for url in (valkey.application_url, valkey.worker_url):
        assert urlsplit(url).password not in json.dumps(broker)


def test_a_broker_that_refuses_our_password(look, valkey, monkeypatch):
    wrong = f"redis://celora-worker:no-such-password@127.0.0.1:{valkey.port}/0"
    monkeypatch.setenv("CELORA_WORKER_BROKER_URL", wrong)
    broker = look()["broker"]
    assert (broker["level"], "refuses us" in broker["found"]) == ("fail", True)
    assert "password" in broker["fix"]


def test_a_user_of_applications_that_is_refused_or_may_do_everything(look, valkey, monkeypatch):
    assert look()["broker.roles"]["level"] == "ok"
    monkeypatch.setenv("CELORA_BROKER_URL", f"redis://:no-such-password@127.0.0.1:{valkey.port}/0")
    assert "CELORA_BROKER_URL" in look()["broker.roles"]["fix"]
    monkeypatch.setenv("CELORA_BROKER_URL", valkey.operator_url)
    roles = look()["broker.roles"]
    assert (roles["level"], "broker-roles.md" in roles["fix"]) == ("warn", True)


def test_a_broker_that_evicts(look, valkey):
    with valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert look()["broker.eviction"]["level"] == "warn"
        client.config_set("maxmemory", "100mb")
    eviction = look()["broker.eviction"]
    assert eviction["level"] == "fail"
    assert "allkeys-lru: above 100 MiB it throws queued messages away" in eviction["found"]
    assert "noeviction" in eviction["fix"]


def test_a_broker_without_persistence(look, valkey):
    with valkey.client() as client:
        client.config_set("appendonly", "no")
        persistence = look()["broker.persistence"]
        assert persistence["level"] == "fail"
        assert "appendonly yes" in persistence["fix"]
        client.config_set("save", "3600 1")
    assert look()["broker.persistence"]["level"] == "warn"


def test_a_broker_that_asks_for_no_password(look, valkey):
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "nopass")
    access = look()["broker.access"]
    assert access["level"] == "warn"
    assert "requirepass" in access["fix"]


def test_a_broker_whose_user_may_not_read_its_figures(look, valkey, monkeypatch):
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "celora", "on", ">a-long-random-word", "~*", "+@all", "-@dangerous")
    monkeypatch.setenv("CELORA_WORKER_BROKER_URL", f"redis://celora:a-long-random-word@127.0.0.1:{valkey.port}/0")
    found = look()
    assert "+info" in found["broker.settings"]["fix"]
    assert found["broker.access"]["level"] == "ok"


def test_a_database_that_is_down(look, monkeypatch, tmp_path):
    monkeypatch.setenv("CELORA_DATABASE_URL", f"postgresql://celora@/record?host={tmp_path}")
    record = look()["record"]
    assert record["level"] == "fail"
    assert "can't be reached" in record["found"]
    assert "Start PostgreSQL" in record["fix"]


def test_a_database_that_was_not_migrated(look, postgres):
    tables = look()["record.tables"]
    assert (tables["level"], "has no tables yet" in tables["found"]) == ("fail", True)
    assert "celora migrate" in tables["fix"]


def test_a_database_that_is_older(look, postgres):
    database = Database(postgres)
    database.migrate()
    schema.downgrade(database.url, "0001")
    tables = look()["record.tables"]
    assert (tables["level"], "older than this celora" in tables["found"]) == ("fail", True)
    assert "celora migrate" in tables["fix"]
    database.dispose()


def test_a_database_that_is_newer(look, postgres):
    database = Database(postgres)
    database.migrate()
    with database.transaction(Scope.everything) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    tables = look()["record.tables"]
    assert (tables["level"], "newer than this celora" in tables["found"]) == ("fail", True)
    assert "Install the celora version" in tables["fix"]
    database.dispose()


def test_storage_that_cannot_be_written(look, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CELORA_ARTIFACT_ROOT", f"file://{tmp_path}/file/artifacts")
    storage = look()["storage"]
    assert storage["level"] == "fail"
    assert f"{tmp_path}/file" in storage["found"]
    assert "CELORA_ARTIFACT_ROOT" in storage["fix"]


def test_a_home_that_cannot_be_written(look, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CELORA_HOME", str(tmp_path / "file" / "home"))
    home = look()["home"]
    assert (home["level"], "is no folder" in home["found"]) == ("fail", True)
    assert "CELORA_HOME" in home["fix"]


def test_storage_is_left_as_it_was_found(look, home):
    (home / "artifacts").mkdir(parents=True)
    assert look()["storage"]["level"] == "ok"
    assert list((home / "artifacts").iterdir()) == []


def test_a_disk_that_is_almost_full(look):
    assert look()["disk"]["level"] != "fail"
    disk = look("--free-gib", "1e7")["disk"]
    assert disk["level"] == "fail"
    assert "celora bases remove" in disk["fix"]


def test_a_missing_secret(look, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    database = get_database()
    database.migrate()
    with database.transaction(Scope.everything) as session:
        spec = {"base_model": "b", "dataset": "/d.jsonl", "report_to": ["wandb"]}
        accept.submit(session, job_id="tracked", spec=parse_spec(spec))
    needed = look()["secrets.needed"]
    assert (needed["level"], "WANDB_API_KEY is needed by tracked" in needed["found"]) == ("fail", True)
    assert needed["fix"] == "Run `celora secret set WANDB_API_KEY`."
    monkeypatch.setenv("WANDB_API_KEY", "there")
    assert look()["secrets.needed"]["level"] == "ok"


def test_a_secrets_file_that_everybody_may_read(look, monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("CELORA_HOME", folder)
        Secrets(Path(folder)).set("HF_TOKEN", "word")
        assert look()["secrets.files"]["level"] == "ok"
        path = Path(folder) / "secrets.json"
        path.chmod(0o644)
        files = look()["secrets.files"]
        assert files["level"] == "fail"
        assert files["fix"] == f"Run `chmod o-rwx {path}`."
        Path(folder).chmod(0o700)
        assert look()["secrets.files"]["level"] == "ok"


def test_a_folder_of_secrets_that_is_not_there(look, monkeypatch, tmp_path):
    monkeypatch.setenv("CELORA_SECRETS_DIR", str(tmp_path / "nowhere"))
    found = look()
    assert found["settings"]["level"] == "fail"
    assert "CELORA_SECRETS_DIR" in found["settings"]["found"]


def test_a_celora_toml_that_is_none(look, new_home):
    new_home.mkdir()
    (new_home / "celora.toml").write_text("lease_s = = 3")
    settings = look()["settings"]
    assert (settings["level"], "celora.toml is no TOML" in settings["found"]) == ("fail", True)
    (new_home / "celora.toml").unlink()


def test_a_production_profile_with_a_short_password(look, valkey, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("CELORA_PROFILE", "production")
        patch.setenv("CELORA_BROKER_URL", f"redis://:changeme@127.0.0.1:{valkey.port}/0")
        profile = look()["profile"]
    assert (profile["level"], "fewer than 12 letters" in profile["found"]) == ("fail", True)


def test_a_weak_login_of_flower(look, monkeypatch):
    monkeypatch.setenv("CELORA_FLOWER_AUTH", "celora:celora")
    assert look()["flower.login"]["level"] == "warn"
    monkeypatch.setenv("CELORA_FLOWER_AUTH", "celora:7hWq-93kd_Lmz0aT")
    monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", "true")
    assert look()["flower.login"]["level"] == "fail"


def test_a_worker_of_another_version(look, workers):
    with workers().transaction(Scope.everything) as session:
        session.get_one(Worker, "gpu@here").versions = {"celora": "0.0.9", "torch": "2.9.0"}
    versions = look()["workers.version"]
    assert (versions["level"], "gpu@here runs 0.0.9" in versions["found"]) == ("warn", True)
    assert "Finish the upgrade" in versions["fix"]


def test_two_workers_of_a_type_with_other_libraries(look, workers):
    workers(versions={"torch": "2.13.0"})
    with get_database().transaction(Scope.everything) as session:
        given = {"host": "here", "kind": "gpu", "gpu_type": "cpu", "pid": 2, "queues": ["gpu.cpu"]}
        worker_rows.register(session, "gpu-1@here", versions={"torch": "2.12.0"}, **given)
    libraries = look()["workers.libraries"]
    assert (libraries["level"], "torch 2.12.0 and 2.13.0 on cpu" in libraries["found"]) == ("warn", True)


def test_a_worker_that_is_silent_cordoned_or_away(look, workers):
    database = workers()
    with database.transaction(Scope.everything) as session:
        worker_rows.cordon(session, "gpu@here", "a fan is loud")
    standing = look()["workers.standing"]
    assert "gpu@here: cordoned: a fan is loud" in standing["found"]
    assert "celora uncordon gpu@here" in standing["fix"]
    with database.transaction(Scope.everything) as session:
        session.get_one(Worker, "control@here").last_seen_at = now(session).replace(year=2020)
    found = look()
    assert (found["workers"]["level"], "control@here" in found["workers"]["found"]) == ("fail", True)
    assert (found["queues"]["level"], "no worker reads celora" in found["queues"]["found"]) == ("fail", True)


def test_a_queue_in_which_a_job_waits_for_nobody(look, workers):
    with workers().transaction(Scope.everything) as session:
        spec = {"base_model": "b", "dataset": "/d.jsonl", "gpu": "h100"}
        job, _ = accept.submit(session, job_id="one", spec=parse_spec(spec))
        job.stage = "train"
    queues = look()["queues"]
    assert (queues["level"], "1 wait for gpu.h100" in queues["found"]) == ("warn", True)


def test_a_reaper_that_stopped_looking(look, workers):
    with workers().transaction(Scope.everything) as session:
        session.execute(text("UPDATE beacon SET seen_at = '2020-01-01 00:00:00.000000'"))
    reaper = look()["reaper"]
    assert (reaper["level"], "beat" in reaper["fix"]) == ("fail", True)


def test_several_machines_on_one_sqlite_file(look, workers):
    workers()
    workers(host="there")
    machines = look()["machines"]
    assert (machines["level"], "2 (here, there)" in machines["found"]) == ("fail", True)
    assert "celora migrate-data" in machines["fix"]


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on(look, valkey, monkeypatch):
    def persistence(_server):
        return 1 / 0

    monkeypatch.setattr(doctor_broker, "persistence", persistence)
    found = look()
    assert "ZeroDivisionError" in found["persistence"]["found"]
    assert found["broker.eviction"]["level"] == "ok"
    assert "record" in found


def test_people_read_a_line_for_each_check_and_the_fix_below(celora, valkey):
    valkey.kill()
    result = celora("doctor", "--quick")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("fail  broker "))
    assert lines[at + 1].strip().startswith("-> Start it")
    assert lines[-1].endswith(" 1 failed")


@pytest.mark.skipif(driver() is not None, reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said(celora):
    result = celora("doctor", "--gpu")
    assert result.exit_code == 64
    assert "no NVIDIA device. Try its CPU: celora doctor --gpu --device cpu" in result.stderr
    assert celora("doctor", "--device", "cuda").exit_code == 64


@pytest.mark.slow
def test_servers_that_hang_do_not_make_it_hang(look, tmp_path, valkey, monkeypatch):
    with tempfile.TemporaryDirectory() as folder, Postgres(folder) as server:
        monkeypatch.setenv("CELORA_DATABASE_URL", server.create("record"))
        server.freeze()
        valkey.freeze()
        try:
            found = look()  # without its deadlines it would wait for ever
        finally:
            valkey.thaw()
            server.thaw()
    assert failures(found) >= {"broker", "record"}


def doctor_process(*words, **environment):
    command = [sys.executable, "-c", "from celora.cli.app import main; main()", "doctor", "--json", *words]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False
    )
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, {finding["check"]: finding for finding in findings}


@pytest.mark.slow
def test_a_clock_that_is_wrong(postgres):
    library = Path(find_spec("libfaketime").submodule_search_locations[0])
    preload = str(library / "vendor/libfaketime/src/libfaketime.so.1")
    faked = {"LD_PRELOAD": preload, "FAKETIME": "+1h", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    Database(postgres).migrate()
    _, found = doctor_process("--quick", **faked)
    clock = found["clock"]
    assert (clock["level"], "3600 s ahead of the record's" in clock["found"]) == ("fail", True)
    assert "NTP" in clock["fix"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "words"),
    [("raise ImportError('libbitsandbytes_cuda.so: no such file')", "no such file"),
     ("import os; os.kill(os.getpid(), 11)", "ended by signal 11")],
)  # fmt: skip
def test_a_broken_bitsandbytes(tmp_path, valkey, code, words):
    package = tmp_path / "shadow" / "bitsandbytes"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    exit_code, found = doctor_process(PYTHONPATH=str(package.parent), OMP_NUM_THREADS="1")
    assert exit_code == 1
    assert (found["torch"]["level"], found["dtype"]["level"]) == ("ok", "ok")
    assert (found["bitsandbytes"]["level"], words in found["bitsandbytes"]["found"]) == ("fail", True)
    assert "pip install" in found["bitsandbytes"]["fix"]
