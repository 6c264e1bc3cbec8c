"""The command and the environment of the answer host: no secret, no download, the device that the operator chose."""

import pytest

from celora.settings.settings import load_settings
from celora.workers.node import answer_process


def test_the_environment_holds_no_secret_and_downloads_nothing(home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    found = answer_process.environment_of(load_settings())
    assert "HF_TOKEN" not in found
    assert (found["HF_HUB_OFFLINE"], found["CUDA_VISIBLE_DEVICES"]) == ("1", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in answer_process.environment_of(load_settings(answer_device="cuda"))


@pytest.mark.parametrize("stay", [True, False])
def test_the_words_name_socket_device_and_idle_time(home, stay):
    words = answer_process.arguments_of(load_settings(warm_s=0), stay=stay)
    named = dict(zip(words[2:-1:2], words[3::2], strict=False))
    assert named["--socket"] == str(home / "run" / "answer.sock")
    assert (named["--device"], named["--idle-s"], "--stay" in words) == ("cpu", "1.0", stay)
    assert (home / "run").is_dir()


def test_no_host_starts_where_no_chats_are_answered(home):
    assert answer_process.starts_here(load_settings())
    assert not answer_process.starts_here(load_settings(answer_bytes=0))
