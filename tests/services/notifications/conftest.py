"""A receiver of webhooks on this machine."""

import pytest
from hook_server import listening


@pytest.fixture
def hooks():
    with listening() as server:
        yield server
