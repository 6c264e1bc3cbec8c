import pytest

from celora.settings.loopback import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine_is_known_by_name_and_address(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "10.0.0.1", "127.0.0.1.example", "::", "box", "localhost.example"])
def test_another_machine_is_not_told_by_the_look_of_a_name(host):
    assert not is_loopback(host)
