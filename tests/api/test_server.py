"""The address at which the API listens."""

import logging

import pytest

from celora.api.server import check_address
from celora.errors import SettingsError
from celora.settings.settings import Settings


def test_loopback_and_a_named_proxy_need_no_warning(caplog):
    check_address("127.0.0.1", Settings(profile="production"))
    check_address("192.168.1.7", Settings(profile="production", trusted_proxies=["10.0.0.5"]))
    assert caplog.text == ""


def test_plain_http_beyond_loopback_warns_and_production_refuses(caplog):
    with caplog.at_level(logging.WARNING):
        check_address("192.168.1.7", Settings())
    assert "can be read on the way" in caplog.text
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES"):
        check_address("192.168.1.7", Settings(profile="production"))
