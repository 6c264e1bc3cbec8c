"""A record in a home of its own, and files that are stored in it."""

import pytest

from celora.api.answers import refusal
from celora.services.openai import creation, files
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.incoming import IncomingFile

ROWS = b'{"prompt": "one", "completion": "1"}\n{"prompt": "two", "completion": "2"}\n'


@pytest.fixture
def installation(record, monkeypatch):
    """An installation whose broker is away, so that messages are lost and nothing waits for them."""
    monkeypatch.setattr(files.messages, "attempt", lambda send, what, **_: False)
    return record


@pytest.fixture
def on_both(database, home, monkeypatch):
    """The record of the installation, on each database in turn; asked for before the fixtures that use it."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    return database


@pytest.fixture
def stored(installation):
    """Stores a content, as an upload does."""

    def store(content=ROWS, container=".jsonl"):
        with IncomingFile(Artifacts(get_settings().artifacts)) as incoming:
            incoming.write(content)
            return incoming.commit(container)

    return store


@pytest.fixture
def file(stored):
    """Makes a file of a tenant."""

    def make(content=ROWS, tenant="default", **options):
        return files.create(tenant, stored(content), get_settings(), **{"filename": "rows.jsonl", **options})

    return make


@pytest.fixture
def create(installation, file):
    """Makes a job of a request; the training file is made where none is named."""

    def make(tenant="default", key=None, key_id="", retried=False, **fields):  # noqa: FBT002  (a flag of the request)
        if "training_file" not in fields:
            fields["training_file"] = file(tenant=tenant).id
        origin = creation.Origin(tenant=tenant, user="ada", key_id=key_id, key=key, retried=retried)
        body = {"model": "smollm2-135m-instruct", **fields}
        return creation.create(body, origin, get_settings(), lambda error: refusal(error.errors()))

    return make
