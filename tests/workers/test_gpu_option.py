"""``--gpu N`` pins a worker to one device, and fills in its queue, its name and its concurrency."""

import os
import sys

import click
import pytest
from celery import Celery
from fake_nvml import FakeNvml

from celora.errors import SettingsError, UnavailableError
from celora.workers import gpu, gpu_option


@pytest.fixture(autouse=True)
def environment(home, monkeypatch):
    """An installation of its own; what the option writes into the environment is undone."""
    for name in (gpu_option.PINNED, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.setattr(gpu, "_nvml", FakeNvml)


@pytest.fixture
def no_cards(monkeypatch):
    monkeypatch.setattr(gpu, "_nvml", lambda: None)


def parse(*words):
    """Parses words as Celery's worker command does: its other options get their defaults from the option."""
    app = Celery("pinned", set_as_current=False)
    gpu_option.add_gpu_option(app)
    seen = {}
    options = [*app.user_options["worker"], click.Option(("-Q", "--queues")), click.Option(("-n", "--hostname")),
               click.Option(("-c", "--concurrency"), type=int)]  # fmt: skip
    command = click.Command("worker", params=options, callback=lambda **given: seen.update(given))
    command.main(list(words), standalone_mode=False)
    return seen


def test_a_cpu_is_pinned_without_a_restart(no_cards):
    assert parse("--gpu", "1") == {"gpu": 1, "queues": "gpu.cpu", "hostname": "cpu-1@%h", "concurrency": 1}
    assert gpu_option.pinned_device() == ("cpu", 1, "")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_what_is_written_beside_it_counts(no_cards):
    found = parse("--gpu", "0", "-Q", "gpu.cpu,prep", "-n", "mine@%h")
    assert (found["queues"], found["hostname"], found["concurrency"]) == ("gpu.cpu,prep", "mine@%h", 1)


def test_a_card_is_made_visible_and_the_program_starts_over(two_cards, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda *call: started.append(call))
    found = parse("--gpu", "1")
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-2"
    assert gpu_option.pinned_device() == ("a10g", 1, "GPU-2")
    worker = gpu_option.host_format("a10g-1@%h")
    assert found["queues"] == f"gpu.a10g,gpu.a10g@={worker}", "its own queue is for jobs whose base it holds"
    parse("--gpu", "1")
    assert len(started) == 1, "the second start finds its card visible"


def test_a_worker_without_the_option_is_pinned_to_nothing(no_cards, monkeypatch):
    monkeypatch.setenv(gpu_option.PINNED, "l4:0:GPU-9")
    assert parse()["queues"] is None
    assert gpu_option.pinned_device() is None


def test_a_card_that_is_not_there_is_a_sentence_of_the_command_line(two_cards):
    with pytest.raises(click.ClickException, match=r"--gpu 2: this machine has 2 GPU\(s\)"):
        parse("--gpu", "2")


@pytest.mark.parametrize(("alone", "visible"), [(True, "GPU-1"), (False, None)])
def test_a_process_that_is_alone_may_see_its_card_at_once(two_cards, alone, visible):
    assert gpu_option.pin(0, alone=alone).gpu_type == "h100"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_errors_of_the_driver_and_of_the_catalogue_pass(two_cards, monkeypatch):
    with pytest.raises(SettingsError):
        gpu_option.pin(7)

    def away(_index, _types):
        raise UnavailableError("the driver does not answer.")

    monkeypatch.setattr(gpu_option, "device", away)
    with pytest.raises(UnavailableError):
        gpu_option.pin(0)
    assert gpu_option.pinned_device() is None


@pytest.mark.parametrize(
    ("text", "device"), [("", None), ("cpu:0:", ("cpu", 0, "")), ("a100-80:3:GPU-1:2", ("a100-80", 3, "GPU-1:2"))]
)
def test_the_pinned_device_is_read_from_the_environment(monkeypatch, text, device):
    monkeypatch.setenv(gpu_option.PINNED, text)
    assert gpu_option.pinned_device() == device


@pytest.mark.parametrize("variable", ["CELORA_LABELS", "CELORA_RESERVED_FOR"])
def test_a_worker_with_labels_or_a_tenant_reads_its_own_queue(no_cards, monkeypatch, variable):
    monkeypatch.setenv(variable, "team-a")
    gpu_option.get_settings.cache_clear()
    host = gpu_option.host_format("cpu-0@%h")
    assert parse("--gpu", "0")["queues"] == f"gpu.cpu@@{host}"


def test_a_label_of_a_wrong_form_stops_the_worker(no_cards, monkeypatch):
    monkeypatch.setenv("CELORA_LABELS", "Große")
    gpu_option.get_settings.cache_clear()
    with pytest.raises(SettingsError, match="can't be a label"):
        parse("--gpu", "0")


@pytest.mark.parametrize("variables", [{"CELORA_SHARE": "off"}, {"CELORA_WARM_S": "0"}])
def test_a_card_without_a_trainer_host_reads_the_common_queue_alone(two_cards, monkeypatch, variables):
    monkeypatch.setattr(os, "execv", lambda *_: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    gpu_option.get_settings.cache_clear()
    assert parse("--gpu", "1")["queues"] == "gpu.a10g"


def test_a_cpu_has_a_trainer_host_where_a_setting_says_so(no_cards, monkeypatch):
    monkeypatch.setenv("CELORA_TRAINER_HOST", "always")
    gpu_option.get_settings.cache_clear()
    worker = gpu_option.host_format("cpu-0@%h")
    assert parse("--gpu", "0")["queues"] == f"gpu.cpu,gpu.cpu@={worker}"


def test_a_worker_with_a_trainer_host_has_the_slots_of_the_setting_and_any_other_one(no_cards, monkeypatch):
    monkeypatch.setenv("CELORA_RUNS_PER_DEVICE", "3")
    gpu_option.get_settings.cache_clear()
    assert parse("--gpu", "0")["concurrency"] == 1
    monkeypatch.setenv("CELORA_TRAINER_HOST", "always")
    gpu_option.get_settings.cache_clear()
    assert parse("--gpu", "0")["concurrency"] == 3
