"""A check keeps nothing, whatever its end, and tells the faults of the data from all others."""

import pytest

from celora.errors import BaseModelError
from celora.models.spec import parse_spec
from celora.services.native import data_check
from celora.services.native.data_check import check_data
from celora.settings.settings import get_settings
from celora.workers.trainer.supervisor import TrainerError


@pytest.fixture
def check(home, tmp_path, monkeypatch):
    """Checks a file; the trainer process answers as it is told, after it has written into the scratch."""

    def make(outcome, **options):
        def run(request, on_event, *, log, environment, wanted):
            assert wanted()
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(f"{sorted(environment)}")
            on_event({"event": "receipt", "receipt": {"ok": False, "rows": 1}})
            if isinstance(outcome, Exception):
                raise outcome
            return {"receipt": outcome}

        monkeypatch.setattr(data_check, "run_once", run)
        rows = tmp_path / "rows.jsonl"
        rows.write_text("{}")
        spec = parse_spec({"base_model": "smollm2-135m-instruct", "dataset": str(rows)})
        given = {"file_names": {}, "environment": {"HF_TOKEN": "t"}, "own_files": True, **options}
        return check_data(spec, get_settings(), **given)

    return make


def fault(code):
    return TrainerError({"code": code, "message": "it failed.", "hint": "Mend it."})


def test_good_data_has_its_receipt_and_nothing_stays(check):
    found = check({"ok": True})
    assert (found.receipt, found.error) == ({"ok": True}, None)
    assert not list(get_settings().scratch.rglob("*"))


def test_a_fault_of_the_data_is_a_result_with_the_receipt_so_far(check, tmp_path):
    found = check(fault("bad_data"), log=tmp_path / "check.log")
    assert found.receipt == {"ok": False, "rows": 1}
    assert found.error == {"code": "bad_data", "message": "it failed.", "hint": "Mend it."}
    assert (tmp_path / "check.log").read_text() == "['HF_TOKEN']"
    assert not list(get_settings().scratch.rglob("*"))


def test_any_other_fault_is_raised_as_its_own_kind(check):
    with pytest.raises(BaseModelError, match="it failed"):
        check(fault("base_model"))
    assert not list(get_settings().scratch.rglob("*"))
