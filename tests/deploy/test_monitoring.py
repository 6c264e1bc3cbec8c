"""Dashboard and alert rules: every metric and label in them is one that the exporter tells; promtool agrees."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from deploy_files import DEPLOY
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from celora.models.jobs.metrics import Reader
from celora.settings.settings import get_settings
from celora.workers.celery import app, configuration
from celora.workers.exporter import Exporter
from celora.workers.gpu import Load

MONITORING = DEPLOY / "monitoring"
PROMETHEUS_OWN = {"up"}
WORD = re.compile(r"\b(celora_\w+|up)\b(?:\{([^}]*)\})?")


@pytest.fixture(scope="module")
def rules():
    return [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
            for rule in group["rules"]]  # fmt: skip


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((MONITORING / "grafana" / "dashboards" / "celora.json").read_text())


@pytest.fixture
def told(busy_record, home, valkey, monkeypatch):
    """Every sample name of an installation where everything happens, with the labels that it has."""
    monkeypatch.setenv("CELORA_BROKER_URL", valkey)
    get_settings.cache_clear()
    app.conf.update(configuration(get_settings()))
    load = Load(uuid="GPU-1", gpu_type="l4", memory_bytes=24, used_bytes=7, utilisation=50)
    monkeypatch.setattr("celora.workers.exporter.loads", lambda _types: [load])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exporter(busy_record, get_settings(), Reader(settled_s=-60)))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def used_in(expressions):
    """Metric names, and the labels that selectors, ``by`` and ``on`` name."""
    for expression in expressions:
        for name, selector in WORD.findall(expression):
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)), expression


def test_every_metric_of_dashboard_and_alerts_exists_with_its_labels(told, rules, dashboard):
    expressions = [rule["expr"] for rule in rules]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 35
    seen = set()
    for name, labels, expression in used_in(expressions):
        if name not in PROMETHEUS_OWN:
            assert name in told, f"{name} in {expression}"
            assert labels <= told[name], f"{labels - told[name]} of {name} in {expression}"
            seen.add(name)
    for expression in expressions:
        grouped = {word for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression) for word in group.split(", ")}
        names = [name for name, _, _ in used_in([expression]) if name in told]
        assert grouped <= set().union(*(told[name] for name in names)), expression
    shown = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in seen}
    assert {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in told} - shown == {"celora_info"}


def test_legends_speak_of_labels_that_exist(told, dashboard):
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            names = [name for name, _, _ in used_in([target["expr"]])]
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert all(label in told[name] for name in names), target


def test_every_alert_says_what_is_wrong_and_what_to_do(rules):
    assert len(rules) >= 10
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        labels = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        assert not labels or named <= labels, rule["alert"]


def test_the_dashboard_is_laid_out_and_reads_the_provisioned_source(dashboard):
    sources = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/celora.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {sources[0]["uid"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    providers = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/celora.yml").read_text())["providers"]
    mounted = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./monitoring/grafana/dashboards:{providers[0]['options']['path']}:ro" in mounted


def test_promtool_finds_no_fault(tmp_path):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([program, "check", "config", MONITORING / "prometheus.yml"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
