"""A worker with a URL of an application refuses to start; one with the workers' URL does not."""

import pytest
from celery import Celery

from celora.errors import SettingsError
from celora.workers.lifecycle.broker_access import require_access
from celora.workers.node.embedded_broker import EmbeddedBroker


@pytest.fixture
def server(tmp_path):
    one = EmbeddedBroker(tmp_path / "broker")
    one.start()
    yield one
    one.stop()


def test_a_user_that_may_only_send_is_refused_with_the_setting(server):
    with Celery("w", broker=server.url) as app, pytest.raises(SettingsError) as refusal:
        require_access(app, ["celora"])
    assert "CELORA_WORKER_BROKER_URL" in refusal.value.hint
    with Celery("w", broker=server.worker_url) as app:
        require_access(app, ["celora", "prep", "gpu.cpu"])


def test_a_broker_that_is_away_is_waited_for_later():
    options = {"max_retries": 1, "interval_start": 0, "socket_connect_timeout": 0.2}
    with Celery("w", broker="redis://127.0.0.1:1/0", broker_transport_options=options) as app:
        require_access(app, ["celora"])
