"""An installation of its own for each test, and a client of its API in this process."""

import pytest
from starlette.testclient import TestClient

from celora.api.app import create_app


@pytest.fixture
def client(record):
    """A client on this machine; a fault of the server is an answer, as over a socket."""
    with _client() as client:
        yield client


@pytest.fixture
def new_client(record):
    """Makes a client with another address, host name or headers."""
    return _client


def _client(address="127.0.0.1", base_url="http://127.0.0.1:8320", **options):
    return TestClient(
        create_app(), base_url=base_url, client=(address, 50000), raise_server_exceptions=False, **options
    )
