"""``celora api``: it serves until a signal, and says what is missing."""

import json
import signal
import subprocess
import sys
from urllib.error import URLError
from urllib.request import urlopen

from waiting import until

from celora.workers.node.ports import free_port

CELORA = [sys.executable, "-c", "from celora.cli.app import main; main()"]


def answered(port, path):
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return json.load(answer)
    except URLError:
        return None


def test_the_api_is_served_until_a_signal(home):
    port = free_port()
    process = subprocess.Popen([*CELORA, "api", "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert until(lambda: answered(port, "/readyz")) == {"status": "ready"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
        assert f"http://127.0.0.1:{port}/v1" in process.stdout.read().decode()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_package_that_is_missing_is_named(celora, monkeypatch):
    monkeypatch.setattr("celora.cli.api.find_spec", lambda name: None)
    result = celora("api")
    assert result.exit_code == 69
    assert "celora[api]" in result.stderr
