"""The deploy files, read once (``deploy_files`` says how)."""

import re
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))  # so that its module is ``deploy_files``

from deploy_files import DEPLOY, everything


@pytest.fixture(scope="session")
def manifests():
    return everything()


@pytest.fixture(scope="session")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="session")
def units():
    """Each unit's settings: lists of values by key."""
    read = {}
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        found = read.setdefault(path.name, {})
        for key, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), flags=re.MULTILINE):
            found.setdefault(key, []).append(value)
    return read
