"""One place for each danger: what runs, unpickles, fetches or starts something is called there and nowhere else.

A fix in one of two places that do the same is half a fix, so there is one. Names are followed through imports and their
aliases. The look is at the product's rooms and at Flower's configuration, which runs with the same rights.
"""

import ast
import builtins
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    "errors", "settings", "storage", "models", "scheduling", "workers", "services", "doctor", "tasks", "api", "cli",
    "tuning", "flower",
)  # fmt: skip
NOWHERE = ()

DANGERS = {
    # what runs text or bytes as code
    "eval": NOWHERE,
    "exec": NOWHERE,
    "compile": NOWHERE,
    "__import__": NOWHERE,
    "os.system": NOWHERE,
    "os.popen": NOWHERE,
    "subprocess.getoutput": NOWHERE,
    "subprocess.getstatusoutput": NOWHERE,
    "pickle": NOWHERE,
    "_pickle": NOWHERE,
    "cloudpickle": NOWHERE,
    "dill": NOWHERE,
    "shelve": NOWHERE,
    "marshal": NOWHERE,
    "joblib": NOWHERE,
    "yaml.load": NOWHERE,
    "yaml.load_all": NOWHERE,
    "yaml.unsafe_load": NOWHERE,
    "yaml.full_load": NOWHERE,
    "yaml.Loader": NOWHERE,
    "yaml.UnsafeLoader": NOWHERE,
    "torch.load": ("tuning/torch_files.py",),
    "torch.jit.load": NOWHERE,
    "torch.hub": NOWHERE,
    "datasets.load_dataset": NOWHERE,
    "datasets.load_from_disk": NOWHERE,
    ".from_pretrained": (
        "tuning/adapters/load.py", "tuning/bases/gguf.py", "tuning/bases/quantize.py", "tuning/bases/tokenizer.py",
    ),
    "transformers.pipeline": NOWHERE,
    "jinja2.Environment": NOWHERE,
    "jinja2.Template": NOWHERE,
    "jinja2.sandbox": NOWHERE,
    # what prints text that may steer a terminal
    "typer.echo": ("cli/datasets.py", "cli/output.py"),
    "click.echo": NOWHERE,
    # what fetches
    "requests": NOWHERE,
    "httpx": ("api/client/connection.py", "api/client/refusals.py"),
    "openai": ("api/client/openai_source.py",),
    "aiohttp": NOWHERE,
    "urllib3": NOWHERE,
    "urllib.request": NOWHERE,
    "ftplib": NOWHERE,
    "http.client.HTTPConnection": ("services/chat/serving_server.py", "tuning/web_connection.py"),
    "http.client.HTTPSConnection": ("services/chat/serving_server.py",),
    "socket.create_connection": ("tuning/web_connection.py",),
    "huggingface_hub": ("tuning/bases/cache.py", "tuning/bases/hub.py", "tuning/files/hub_datasets.py"),
    "fsspec": ("storage/artifacts.py", "tuning/files/sources.py", "tuning/files/splits.py"),
    # what starts a program
    "subprocess.Popen": (
        "services/champions.py",
        "services/chat/host_process.py",
        "doctor/gpu_test/process.py",
        "workers/node/embedded_broker.py",
        "workers/trainer/process.py",
        "workers/trainer/forked.py", "workers/trainer/hosts.py",
        "workers/node/processes.py",
    ),
    "subprocess.run": ("workers/node/broker_server.py", "doctor/torch.py"),
    "subprocess.call": NOWHERE,
    "subprocess.check_call": NOWHERE,
    "subprocess.check_output": NOWHERE,
    "os.execv": ("workers/gpu_option.py",),
    "os.execvp": NOWHERE,
    "os.spawnv": NOWHERE,
    "pty": NOWHERE,
}  # fmt: skip
"""A module, a name of one, or (with a leading dot) a method of anything, and the files that may use it."""

ARGUMENTS = {
    "shell": {False},
    "trust_remote_code": {False},
    "allow_pickle": {False},
    "weights_only": {True},
    "use_safetensors": {True},
}
"""Arguments that may only be given as one of these constants, or by a name that was decided elsewhere."""
DECIDED = {"trust_remote_code": ("tuning/bases/quantize.py",)}
"""Files in which such an argument may be a variable: an operator's list says so."""


@cache
def sources():
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


@cache
def nodes_of(text):
    return list(ast.walk(ast.parse(text)))


@cache
def uses(text):
    """Every name that a source uses, as a tuple; a source is walked once for all dangers."""
    return tuple(_uses(text))


def _uses(text):
    """Every name that a source uses, in full: ``(line, 'torch.load')``; a method of something unknown is ``.name``."""
    known = {}
    for node in nodes_of(text):
        if isinstance(node, ast.Import):
            for name in node.names:
                known[name.asname or name.name.split(".")[0]] = name.name if name.asname else name.name.split(".")[0]
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for name in node.names:
                known[name.asname or name.name] = f"{node.module}.{name.name}"
                yield node.lineno, f"{node.module}.{name.name}"
    for node in nodes_of(text):
        if isinstance(node, ast.Attribute):
            full = _full(node, known)
            yield node.lineno, full
            yield node.lineno, f".{node.attr}"
        elif isinstance(node, ast.Name) and node.id not in known and hasattr(builtins, node.id):
            yield node.lineno, node.id


def _full(node, known):
    if isinstance(node, ast.Name):
        return known.get(node.id, f"?{node.id}")
    if isinstance(node, ast.Attribute):
        return f"{_full(node.value, known)}.{node.attr}"
    return "?"


def dangers_of(name):
    """The dangers that a name is, or is a part of."""
    ends = [end for end, letter in enumerate(name) if letter == "." and end] + [len(name)]
    return [name[:end] for end in ends if name[:end] in DANGERS]


def faults(path, text):
    """What a source does that only another may do."""
    found = set()
    for line, name in uses(text):
        for danger in dangers_of(name):
            if path not in (places := DANGERS[danger]):
                found.add((line, f"{danger}: {'nowhere' if not places else 'only in ' + ', '.join(places)}"))
    for node in nodes_of(text):
        for given in node.keywords if isinstance(node, ast.Call) else ():
            allowed = ARGUMENTS.get(given.arg)
            if allowed is None or (isinstance(given.value, ast.Constant) and given.value.value in allowed):
                continue
            if isinstance(given.value, ast.Constant) or path not in DECIDED.get(given.arg, ()):
                found.add((node.lineno, f"{given.arg}={ast.unparse(given.value)}"))
    return sorted(found)


def test_each_danger_is_met_in_its_own_place_alone():
    found = [f"{path}:{line} {what}" for path, text in sources() for line, what in faults(path, text)]
    assert found == []


def test_no_place_is_allowed_what_it_no_longer_does():
    used = {(danger, path) for path, text in sources() for _, name in uses(text) for danger in dangers_of(name)}
    assert [(danger, path) for danger, places in DANGERS.items() for path in places if (danger, path) not in used] == []


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(x)",
        "import torch as t\nt.load(x)",
        "from torch import load\nload(x)",
        "from torch import load as read\nread(x)",
        "import pickle",
        "from pickle import loads as read",
        "def f():\n    import dill",
        "import numpy\nnumpy.load(x, allow_pickle=True)",
        "from datasets import load_dataset",
        "import datasets\ndatasets.load_dataset('csv')",
        "import transformers\ntransformers.AutoModel.from_pretrained(x)",
        "model.from_pretrained(x)",
        "load(x, trust_remote_code=True)",
        "load(x, trust_remote_code=code)",
        "load(x, use_safetensors=False)",
        "import jinja2\njinja2.Environment()",
        "from jinja2 import Template",
        "from jinja2.sandbox import SandboxedEnvironment",
        "import requests",
        "import httpx as h",
        "from urllib.request import urlopen",
        "import urllib.request",
        "import http.client\nhttp.client.HTTPSConnection(x)",
        "import socket\nsocket.create_connection(x)",
        "from huggingface_hub import snapshot_download",
        "import fsspec\nfsspec.open(x)",
        "import subprocess\nsubprocess.run(x)",
        "import subprocess\nsubprocess.Popen(x, shell=True)",
        "from subprocess import check_output",
        "import os\nos.system(x)",
        "import yaml\nyaml.load(x)",
        "from yaml import unsafe_load",
        "eval(x)",
        "exec(x)",
        "run = eval",
        "torch_load(x, weights_only=False)",
    ],
)
def test_a_danger_elsewhere_would_be_seen(code):
    assert faults("cli/elsewhere.py", code) != []


@pytest.mark.parametrize(
    "code",
    [
        "import yaml\nyaml.safe_load(x)",
        "import re\nre.compile(x)",
        "import http.client\nhttp.client.OK",
        "import torch\ntorch.save(x)",
        "from .datasets import load\nload(x)",
        "import numpy\nnumpy.load(x, allow_pickle=False)",
        "lines = ['from_pretrained', 'pickle']",
        "model.eval()",
        "def f(requests):\n    return requests.get(x)",
    ],
)
def test_what_only_looks_alike_is_let_be(code):
    assert faults("cli/elsewhere.py", code) == []
