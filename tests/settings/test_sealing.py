"""Secrets of the record: unreadable without the key of the home, and one key for all that start at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from celora.errors import SettingsError, UnavailableError
from celora.settings.sealing import NAME, seal, unseal
from celora.settings.secrets import Secrets
from celora.settings.settings import load_settings


def test_what_is_sealed_is_read_back_and_is_not_in_the_record(home):
    settings = load_settings()
    sealed = seal("whsec_one", settings)
    assert "whsec" not in sealed
    assert unseal(sealed, settings) == "whsec_one"
    assert seal("whsec_one", settings) != sealed


def test_another_key_is_told_with_the_setting(home, monkeypatch):
    sealed = seal("whsec_one", load_settings())
    monkeypatch.setenv(NAME, "x" * 32)
    with pytest.raises(SettingsError, match=NAME):
        unseal(sealed, load_settings())
    monkeypatch.setenv(NAME, Secrets(home).get(NAME))
    assert unseal(sealed, load_settings()) == "whsec_one"


def test_production_makes_no_secret_that_a_container_would_lose(home, monkeypatch):
    monkeypatch.setenv("CELORA_PROFILE", "production")
    with pytest.raises(UnavailableError, match=NAME):
        seal("text", load_settings())
    assert Secrets(home).names() == []
    monkeypatch.setenv(NAME, "x" * 32)
    assert unseal(seal("text", load_settings()), load_settings()) == "text"


def test_a_short_secret_is_refused(home, monkeypatch):
    monkeypatch.setenv(NAME, "short")
    with pytest.raises(SettingsError, match="record_secret"):
        load_settings()


def test_all_that_start_at_once_make_one_key(home):
    together = threading.Barrier(6)

    def sealed(_):
        together.wait(60)
        return seal("text", load_settings())

    with ThreadPoolExecutor(6) as starting:
        assert {unseal(one, load_settings()) for one in starting.map(sealed, range(6))} == {"text"}
