import stat

import pytest

from celora.errors import SettingsError
from celora.settings.settings import load_settings
from celora.workers.node import installation
from celora.workers.node.installation import Installation


def test_a_home_holds_one_running_installation(home):
    home.mkdir(parents=True, exist_ok=True)
    first = Installation(flower=False)
    first._claim_home()
    with pytest.raises(SettingsError, match=f"an installation runs in {home} already"):
        Installation(flower=False)._claim_home()
    first._stop()
    Installation(flower=False)._claim_home()


def test_other_programs_find_a_running_installation_by_a_private_file(home):
    home.mkdir(parents=True, exist_ok=True)
    installation._write_environment(load_settings(broker_url="redis://:secret@127.0.0.1:7000/0"))
    file = home / "celora.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_settings().broker_url == "redis://:secret@127.0.0.1:7000/0"
