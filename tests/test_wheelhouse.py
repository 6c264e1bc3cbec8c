"""`make wheelhouse`, and an installation from what it made on a machine without any network.

A small variant, without torch: the wheels of a machine that carries services. The network is taken away by the kernel
(a network namespace without interfaces) where we may, else from pip and Python by their settings.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = "embedded,flower,metrics,postgres"
ROW = '{"prompt": "2+2?", "completion": "4"}\n'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheelhouse") / "wheels"
    make = ["make", "wheelhouse", f"EXTRAS={EXTRAS}", "BASES=", f"WHEELHOUSE={folder}", f"PYTHON={sys.executable}"]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True)
    return folder


@pytest.fixture(scope="module")
def offline():
    """Runs a command without a network; ``says`` are the words of a refusal that is expected."""
    isolated = next((words for words in (["unshare", "-n"], ["unshare", "-rn"]) if _works([*words, "true"])), [])
    nowhere = "http://127.0.0.1:9"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "CELORA_"))}
    bare = {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere}

    def run(*command, expected=0, **more):
        done = subprocess.run([*isolated, *map(str, command)], env={**bare, **more}, capture_output=True, text=True,
                              timeout=240, check=False)  # fmt: skip
        assert done.returncode == expected, done.stderr
        return done.stdout + done.stderr

    return run


def _works(command):
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def programs(wheels, offline):
    """The programs of a fresh environment, installed from the wheels alone."""
    environment = wheels.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    offline(*pip, "install", "--no-index", "--find-links", wheels, f"celora[{EXTRAS}]")
    return environment / "bin"


def test_every_wheel_is_the_pinned_one(wheels):
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    pinned = {name.lower().replace("-", "_").replace(".", "_"): version for name, version in pinned}
    found = [path.name.split("-")[:2] for path in wheels.iterdir()]
    others = [name for name, version in found if name != "celora" and pinned.get(name.lower()) != version]
    assert len(found) > 40
    assert others == []
    assert sum(name == "celora" for name, _ in found) == 1


def test_what_was_installed_without_a_network_submits_and_shows_a_job(programs, offline, tmp_path):
    rows, home = tmp_path / "rows.jsonl", {"CELORA_HOME": str(tmp_path / "home")}
    rows.write_text(ROW)
    assert "Fine-tuning as a service" in offline(programs / "celora", "--help")
    job = ["--base-model", "smollm2-135m-instruct", "--dataset", rows, "--id", "first"]
    assert "accepted" in offline(programs / "celora", "submit", *job, **home)
    shown = json.loads(offline(programs / "celora", "status", "first", "--json", **home))
    assert (shown["status"], shown["stage"], shown["base_model"]) == ("pending", "prepare", "smollm2-135m-instruct")
    assert Path(tmp_path / "home" / "celora.db").is_file()


def test_a_machine_without_the_extra_train_takes_no_training(programs, offline, tmp_path):
    """It would fail every job that it took, three times each."""
    rows, home = tmp_path / "rows.jsonl", {"CELORA_HOME": str(tmp_path)}
    rows.write_text(ROW)
    offline(programs / "celora", "migrate", **home)
    worker = [programs / "celery", "-A", "celora.workers", "worker"]
    for words, code in (
        ([*worker, "--gpu", "0"], 1),
        ([*worker, "-Q", "prep"], 1),
        ([programs / "celora", "up"], 69),
        ([programs / "celora", "check", rows, "--base-model", "smollm2-135m-instruct"], 69),
    ):
        said = offline(*words, expected=code, **home)
        assert re.search(
            r"cannot prepare or train: .*torch.* not installed\. Run `pip install \"celora\[train\]\"`", said
        )
        assert "Traceback" not in said
