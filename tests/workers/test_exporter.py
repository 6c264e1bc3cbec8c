"""The exporter: what stands in the record, each thing once, quickly, and no secret."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from records import many
from sqlalchemy import update

from celora.models.database import Database
from celora.models.jobs import accept
from celora.models.jobs.metrics import Reader
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.settings.settings import get_settings
from celora.workers import gpu
from celora.workers.celery import app, configuration
from celora.workers.exporter import Exporter


@pytest.fixture
def no_broker(home, monkeypatch):
    """A port where nothing listens."""
    monkeypatch.setenv("CELORA_BROKER_URL", "redis://:broker-canary@127.0.0.1:9/0")
    get_settings.cache_clear()
    app.conf.update(configuration(get_settings()))


def scrape(exporter):
    """Samples by name and labels, as Prometheus parses them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter)
    text = generate_latest(registry).decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, *sorted(sample.labels.values())] = sample.value
    return samples


@pytest.fixture
def exporter(busy_record, no_broker):
    return Exporter(busy_record, get_settings(), Reader(settled_s=-60))


def test_jobs_are_told_by_queue_and_status(exporter):
    samples = scrape(exporter)
    assert samples["celora_jobs", "gpu.cpu", "running"] == 1
    assert samples["celora_jobs", "gpu.auto", "pending"] == 3  # lost, retried, any
    assert samples["celora_jobs", "pending", "prep"] == 1  # waiting
    assert samples["celora_jobs_paused",] == 1
    assert samples["celora_oldest_waiting_seconds", "prep"] >= 0
    assert [name for name in samples if name[0] == "celora_waiting_age_seconds" and "0.95" in name]
    assert samples["celora_preemptions_total",] == 0
    assert samples["celora_budget_pauses_total", "tenant"] >= 0
    assert samples["celora_jobs_ended_total", "completed", "cpu"] == 1
    assert samples["celora_jobs_ended_total", "cancelled", "none"] == 1
    assert samples["celora_jobs_failed_total", "diverged"] == 1


def test_slots_workers_and_leases_are_told(exporter):
    samples = scrape(exporter)
    assert samples["celora_slots", "gpu.cpu"] == 1
    assert samples["celora_slots_free", "gpu.cpu"] == 0
    assert samples["celora_slots", "gpu.l4"] == 0  # its worker is unhealthy
    assert samples["celora_workers", "gpu", "l4", "unhealthy"] == 1
    assert samples["celora_workers", "able", "none", "prep"] == 1
    assert ("celora_workers", "able", "control", "none") not in samples  # offline
    assert 15 < samples["celora_lease_age_seconds", "gpu.cpu"] < 60
    assert samples["celora_reaper_age_seconds",] < 60


def test_speed_memory_money_and_losses_are_told(exporter):
    samples = scrape(exporter)
    of_running = ("acme", "cpu", "cpu-0@here")
    assert samples["celora_tokens_per_second", *of_running] == 250
    assert samples["celora_gpu_memory_bytes", *of_running] == 2**30
    assert samples["celora_gpu_utilisation", *of_running] == 93
    assert samples["celora_cost_dollars_total", "acme", "cpu"] == pytest.approx(
        samples["celora_gpu_seconds_total", "acme", "cpu"], rel=1e-6
    )  # at 3600 dollars an hour
    assert samples["celora_reaped_total", "returned"] == 1
    assert samples["celora_reaped_total", "gave_up"] == 0
    assert samples["celora_retries_total", "device"] == 1
    assert samples["celora_attempts", "lost"] == 1
    assert samples["celora_unannounced_jobs",] == 3  # done, failed, cancelled


def test_stage_times_are_a_histogram_for_hours(exporter):
    samples = scrape(exporter)
    assert samples["celora_stage_seconds_count", "done", "prepare"] == 6
    assert samples["celora_stage_seconds_bucket", "+Inf", "done", "train"] == 1
    assert ("celora_stage_seconds_bucket", "259200.0", "done", "train") in samples
    assert samples["celora_stage_seconds_count", "train", "worker_lost"] == 1


def test_what_happened_once_is_counted_once(exporter, busy_record):
    """The second scrape reads what is new alone."""
    growing = re.compile(r"_(total|count|bucket|sum)$")
    first, second = ({key: value for key, value in scrape(exporter).items() if growing.search(key[0])} for _ in "12")
    assert first == second
    with busy_record.transaction(Scope.everything) as session:
        accept.reject(session, "refused", {}, {"code": "bad_data", "message": ""})
    third = scrape(exporter)
    assert third["celora_jobs_failed_total", "bad_data"] == 1
    assert third["celora_jobs_failed_total", "diverged"] == 1
    assert {key for key in first if third[key] != first[key]} == set()


def test_an_event_that_may_still_have_younger_brothers_waits(busy_record, no_broker):
    cautious = Exporter(busy_record, get_settings(), Reader(settled_s=3600))
    assert scrape(cautious)["celora_stage_starts_total",] == 0


def test_a_record_that_is_away_is_a_figure_and_no_crash(no_broker, tmp_path):
    samples = scrape(Exporter(Database(f"sqlite:///{tmp_path}/none.db"), get_settings()))
    assert samples["celora_record_up",] == 0
    assert samples["celora_broker_up",] == 0
    assert not [name for name, *_ in samples if name.startswith("celora_jobs")]


def test_the_depth_of_a_queue_is_that_of_all_its_priorities(busy_record, home, valkey, monkeypatch):
    monkeypatch.setenv("CELORA_BROKER_URL", valkey)
    get_settings.cache_clear()
    app.conf.update(configuration(get_settings()))
    with app.connection_for_write() as connection:
        for priority in (0, 3, 6, 9, 9):
            options = {"queue": "gpu.l4", "priority": priority, "ignore_result": True}
            app.send_task("celora.tick", connection=connection, **options)
    samples = scrape(Exporter(busy_record, get_settings()))
    assert samples["celora_broker_up",] == 1
    assert samples["celora_broker_depth", "gpu.l4"] == 5
    assert samples["celora_broker_depth", "prep"] == 0


def test_nothing_that_a_tenant_wrote_and_no_secret_is_told(busy_record, no_broker):
    canary = "canary-3f9a"
    with busy_record.transaction(Scope.everything) as session:
        text = {"message": canary, "code": "diverged", "dataset": canary, "tokens_per_s": 5.0}
        session.execute(
            update(Job).values(spec=text, progress=text, error=text, request=text, name=canary, user=canary)
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exporter(busy_record, get_settings(), Reader(settled_s=-60)))
    text = generate_latest(registry).decode()
    assert "canary" not in text
    assert "done" not in re.findall(r'worker="([^"]*)"', text)


def test_the_devices_of_this_machine_are_told_where_it_has_some(busy_record, no_broker, monkeypatch):
    load = gpu.Load(uuid="GPU-1", gpu_type="l4", memory_bytes=24, used_bytes=7, utilisation=None)
    monkeypatch.setattr("celora.workers.exporter.loads", lambda _types: [load])
    samples = scrape(Exporter(busy_record, get_settings()))
    assert samples["celora_device_memory_used_bytes", "GPU-1", "l4"] == 7
    assert ("celora_device_utilisation", "GPU-1", "l4") not in samples


@pytest.mark.slow
def test_the_command_serves_this_machine_alone(home, tmp_path):
    url = f"sqlite:///{tmp_path}/record.db"
    Database(url).migrate()
    environment = {**os.environ, "CELORA_DATABASE_URL": url}
    command = [Path(sys.executable).parent / "celora", "metrics", "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://\S+/metrics", line)))
        assert address.startswith("http://127.0.0.1:")
        with urlopen(address) as answer:  # noqa: S310  (the address that it printed)
            assert b"celora_record_up 1.0" in answer.read()
        server.terminate()
        assert server.wait(timeout=240) == 0


@pytest.mark.slow
def test_a_scrape_of_ten_thousand_jobs_takes_a_fifth_of_a_cpu_second(database, no_broker, monkeypatch):
    monkeypatch.setattr("celora.workers.queues.depths", lambda *_: {})
    many(database, 10_000)
    exporter = Exporter(database, get_settings())
    exporter.catch_up()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter)
    times = []
    for _ in range(5):
        began = time.process_time()
        generate_latest(registry)
        times.append(time.process_time() - began)
    samples = scrape(exporter)
    assert samples["celora_stage_seconds_count", "done", "train"] == 10_000
    assert sum(value for key, value in samples.items() if key[0] == "celora_jobs_ended_total") == 7800
    print(f"scrapes of 10,000 jobs on {database.url.get_backend_name()}: {round(1000 * min(times))} ms")  # noqa: T201  (a figure; pytest -s shows it)
    assert min(times) <= 0.2
