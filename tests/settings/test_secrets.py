import json
import stat
import subprocess
import sys

import pytest

from celora.errors import NotFoundError, SettingsError, StorageError
from celora.settings.secrets import Secrets, all_values


def test_what_was_set_is_got_back_by_another_reader(tmp_path):
    Secrets(tmp_path / "home").set("HF_TOKEN", "hf_abc")
    assert Secrets(tmp_path / "home").get("HF_TOKEN") == "hf_abc"
    assert Secrets(tmp_path / "home").get("WANDB_API_KEY") is None


def test_each_tenant_has_its_own(tmp_path):
    Secrets(tmp_path).set("HF_TOKEN", "ours")
    Secrets(tmp_path, "acme").set("HF_TOKEN", "acmes")
    assert Secrets(tmp_path, "other").names() == []
    assert (Secrets(tmp_path).get("HF_TOKEN"), Secrets(tmp_path, "default").get("HF_TOKEN")) == ("ours", "ours")
    assert all_values(tmp_path) == {"ours", "acmes"}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    Secrets(tmp_path, "acme").clear()
    assert all_values(tmp_path) == {"ours"}


@pytest.mark.parametrize("tenant", ["..", "...", ".hidden"])
def test_a_tenants_name_leads_out_of_no_folder(tmp_path, tenant):
    Secrets(tmp_path, tenant).set("HF_TOKEN", "theirs")
    assert all_values(tmp_path) == {"theirs"}
    assert {path.parent for path in tmp_path.rglob("*.json")} == {tmp_path / "secrets"}


def test_names_are_sorted_and_removing_forgets_one(tmp_path):
    secrets = Secrets(tmp_path)
    assert secrets.names() == []
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        secrets.set(name, "x")
    assert secrets.names() == ["HF_TOKEN", "WANDB_API_KEY"]
    secrets.remove("HF_TOKEN")
    assert secrets.names() == ["WANDB_API_KEY"]
    with pytest.raises(NotFoundError, match="no secret named HF_TOKEN"):
        secrets.remove("HF_TOKEN")


def test_the_file_is_the_owners_alone_from_the_start_and_after_a_change(tmp_path):
    secrets = Secrets(tmp_path)
    for value in ("one", "two"):
        secrets.set("HF_TOKEN", value)
        assert stat.S_IMODE(secrets.path.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"secrets.json", "secrets.lock"}


@pytest.mark.parametrize("name", ["hf_token", "1TOKEN", "HF-TOKEN", "", "A" * 65, "HF_TOKEN\n", "../X"])
def test_a_name_that_is_no_environment_variable_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(SettingsError, match="can't name a secret"):
        Secrets(tmp_path).set(name, "value")
    assert not (tmp_path / "secrets.json").exists()


@pytest.mark.parametrize("value", ["", "two\nlines", "nul\0"])
def test_a_value_that_no_environment_can_hold_is_refused_without_showing_it(tmp_path, value):
    with pytest.raises(SettingsError, match="empty or holds a line break") as refusal:
        Secrets(tmp_path).set("HF_TOKEN", value)
    assert not value or value not in str(refusal.value)


def test_an_environment_holds_the_asked_names_that_are_set_and_no_other(tmp_path):
    secrets = Secrets(tmp_path)
    secrets.set("HF_TOKEN", "hf_abc")
    secrets.set("OTHER", "x")
    assert secrets.environment("HF_TOKEN", "WANDB_API_KEY") == {"HF_TOKEN": "hf_abc"}


def test_a_damaged_file_is_an_error_that_names_it_and_is_not_overwritten(tmp_path):
    secrets = Secrets(tmp_path)
    secrets.path.write_text('{"HF_TOKEN": "hf_a')
    with pytest.raises(StorageError, match=r"secrets\.json can't be read"):
        secrets.set("OTHER", "x")
    assert secrets.path.read_text() == '{"HF_TOKEN": "hf_a'


def test_processes_that_set_at_once_lose_nothing(tmp_path):
    script = (
        "import sys; from pathlib import Path; from celora.settings.secrets import Secrets\n"
        "for i in range(20): Secrets(Path(sys.argv[1])).set(f'{sys.argv[2]}_{i}', 'x')"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in ("A", "B", "C")]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(json.loads((tmp_path / "secrets.json").read_text())) == 60
