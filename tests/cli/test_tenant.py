"""``celora tenant``: limits are set one by one, shown as numbers, and wrong ones are refused."""

import pytest
from fake_vllm import FakeVllm

from celora.settings.settings import get_settings


def test_limits_are_set_lifted_and_shown(celora):
    words = "--max-jobs 3 --max-gpus 2 --gpu-minutes 90.5 --budget 10 --storage-bytes 1000 --max-priority 5 --weight 2"
    data = celora("tenant", "set", "team-a", *words.split(), "--over", "refuse", "--json").json()
    limits = {"max_jobs": 3, "max_gpus": 2, "gpu_minutes": 90.5, "budget": 10.0, "storage_bytes": 1000,
              "max_priority": 5, "weight": 2.0, "over": "refuse"}  # fmt: skip
    assert data.items() >= limits.items()
    lifted = celora("tenant", "set", "team-a", "--budget", "none", "--max-jobs", 0, "--json").json()
    assert lifted.items() >= {**limits, "budget": None, "max_jobs": 0}.items()
    assert celora("tenant", "show", "team-a", "--json").json().items() >= {"name": "team-a", "budget": None}.items()
    assert [row["name"] for row in celora("tenant", "list", "--json").json()] == ["team-a"]


def test_people_read_what_is_used_of_a_limit(celora):
    shown = celora("tenant", "set", "team-a", "--budget", 10).stdout
    assert "used and $0.0000 held of 10" in shown
    assert "a job waits" in shown
    assert "0 B of no limit" in shown
    assert "at most 3 at once" in celora("tenant", "set", "team-a", "--max-gpus", 3).stdout
    assert "team-a" in celora("tenant", "list").stdout


def test_a_job_beyond_a_limit_is_refused_with_the_numbers(celora, rows):
    celora("tenant", "set", "team-a", "--gpu-minutes", 0, "--over", "refuse")
    result = celora("submit", "--tenant", "team-a", "--base-model", "smollm2-135m-instruct", "--dataset", rows)
    assert result.exit_code == 77
    assert "device minutes; of this month's 0" in result.stderr


@pytest.mark.parametrize("words", [
    ("set", "team-a"), ("set", "team-a", "--budget", "-1"), ("set", "team-a", "--budget", "much"),
    ("set", "team-a", "--budget", "nan"), ("set", "team-a", "--max-jobs", "1.5"), ("set", "team-a", "--weight", "0"),
    ("set", "team-a", "--max-jobs", "9" * 400), ("set", "team-a", "--max-jobs", "9" * 5000),
    ("set", "team-a", "--max-priority", "9" * 400), ("set", "team-a", "--weight", "1e-320"),
    ("set", "team-a", "--max-priority", "101"), ("set", "team-a", "--over", "shout"),
    ("set", "a/b", "--budget", "1"), ("set", "x" * 300, "--budget", "1"), ("set", "\u202eevil", "--budget", "1"),
    ("show", "nobody"),
])  # fmt: skip
def test_wrong_words_are_refused_in_one_sentence(celora, words):
    result = celora("tenant", *words)
    assert result.exit_code in (64, 66)
    assert "Traceback" not in result.stderr
    assert celora("tenant", "list", "--json").json() == []


def submitted(celora, rows):
    """A waiting job of team-a with its own dataset."""
    words = ("--base-model", "smollm2-135m-instruct", "--dataset", rows, "--tenant", "team-a", "--json")
    return celora("submit", *words).json()["id"]


def test_a_tenant_is_deleted_after_two_questions(celora, rows):
    submitted(celora, rows)
    celora("key", "create", "--tenant", "team-a")
    for answers in ("n\n", "y\nteam-b\n", "y\n", ""):
        refused = celora("tenant", "delete", "team-a", stdin=answers)
        assert refused.exit_code == 64
        assert "nothing was deleted" in refused.stderr
    assert len(celora("list", "--tenant", "team-a", "--json").json()) == 1
    done = celora("tenant", "delete", "team-a", stdin="y\nteam-a\n")
    assert "1 job," in done.stderr
    assert "1 of its jobs have not ended" in done.stderr
    assert "Tenant team-a is deleted" in done.stdout
    assert celora("tenant", "show", "team-a").exit_code == 66
    assert celora("audit", "--tenant", "team-a", "--json").json()[0]["action"] == "tenant.delete"


def test_a_script_gives_the_name_twice_and_the_adapters_leave_the_serving_server(celora, rows, monkeypatch):
    submitted(celora, rows)
    assert celora("tenant", "delete", "team-a", "--confirm", "team-b").exit_code == 64
    (job,) = celora("list", "--tenant", "team-a", "--json").json()
    with FakeVllm("base") as server:
        monkeypatch.setenv("CELORA_SERVING_URL", server.url)
        get_settings.cache_clear()
        server.adapters = {f"{job['id']}@3": "folder", "by-hand": "folder"}
        done = celora("tenant", "delete", "team-a", "--confirm", "team-a", "--json").json()
        assert list(server.adapters) == ["by-hand"]
    assert (done["tenant"], done["cancelled"], done["rows"]["job"]) == ("team-a", 1, 1)
    assert celora("tenant", "delete", "team-a", "--confirm", "team-a").exit_code == 66


def test_the_installations_own_tenant_stays(celora, rows):
    celora("submit", "--base-model", "smollm2-135m-instruct", "--dataset", rows)
    refused = celora("tenant", "delete", "default", "--confirm", "default")
    assert refused.exit_code == 64
    assert "the installation's own" in refused.stderr
