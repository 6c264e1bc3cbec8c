"""An installation on either database, without workers and broker."""

import pytest

from celora.models.database import get_database
from celora.services.tenants import limits
from celora.settings.settings import get_settings


@pytest.fixture
def here(database, home, monkeypatch):
    """The record of this process's settings; a scheduling round is asked of nobody."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    monkeypatch.setattr(limits, "request_tick", lambda: None)
    return get_database()
