import os
import stat

import pytest

from celora.settings.permissions import make_private, protect, too_open
from celora.settings.settings import load_settings


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_and_its_files_are_private_whatever_the_umask(home):
    protect(load_settings())
    (home / "file").touch()
    (home / "folder").mkdir()
    assert (mode(home), mode(home / "file"), mode(home / "folder")) == (0o700, 0o600, 0o700)


def test_a_home_of_an_earlier_version_is_closed_and_it_is_told(home, caplog):
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o755)
    protect(load_settings())
    assert mode(home) == 0o700
    assert "was open to other users (mode 755)" in caplog.text


def test_an_installation_that_shares_its_files_lets_the_group_read(home):
    protect(load_settings(share_files=True))
    (home / "file").touch()
    assert (mode(home), mode(home / "file")) == (0o750, 0o640)


def test_a_folder_is_too_open_when_it_lets_in_more_than_it_should(tmp_path):
    tmp_path.chmod(0o750)
    assert too_open(tmp_path) == 0o750
    assert too_open(tmp_path, 0o750) == 0
    make_private(tmp_path)
    assert too_open(tmp_path) == 0
