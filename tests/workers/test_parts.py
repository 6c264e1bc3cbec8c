"""What a machine must have installed before it takes work; the real refusal is in tests/test_wheelhouse.py."""

import pytest

from celora.settings.errors import UnavailableError
from celora.workers import parts


def test_where_everything_is_installed_nothing_is_said():
    parts.require_training()


def test_what_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(parts, "find_spec", lambda name: None if name in ("torch", "peft") else object())
    with pytest.raises(UnavailableError, match=r"cannot prepare or train: peft, torch not installed.*celora\[train\]"):
        parts.require_training()
