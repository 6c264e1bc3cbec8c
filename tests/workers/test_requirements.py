"""What a machine must have installed before it takes work; the real refusal is in tests/test_wheelhouse.py."""

import pytest

from celora.errors import UnavailableError
from celora.workers import requirements


def test_where_everything_is_installed_nothing_is_said():
    requirements.require_training()


def test_what_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name in ("torch", "peft") else object())
    with pytest.raises(UnavailableError, match=r"cannot prepare or train: peft, torch not installed.*celora\[train\]"):
        requirements.require_training()
