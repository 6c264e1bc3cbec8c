"""The task of applications refuses to run in the caller's process."""

import pytest

from celora.errors import SettingsError
from celora.tasks import finetune
from celora.workers.celery import app

SPEC = {"base_model": "smollm2-135m-instruct", "dataset": "faq"}


def refusal(call):
    with pytest.raises(SettingsError) as caught:
        call()
    assert "In tests, replace finetune.apply_async" in caught.value.hint
    return caught.value.message


def test_a_direct_call_is_refused_with_what_to_write(home):
    said = refusal(lambda: finetune(**SPEC))
    assert said == "finetune is a task, and was called as a function. Send it: finetune.apply_async(kwargs={…})."


def test_apply_is_refused_from_the_task_and_from_a_signature(home):
    assert ".apply()" in refusal(lambda: finetune.apply(kwargs=SPEC))
    assert "finetune.apply_async(kwargs={…})" in refusal(lambda: finetune.s(**SPEC).apply())


def test_eager_mode_is_refused(home, monkeypatch):
    monkeypatch.setitem(app.conf, "task_always_eager", True)  # noqa: FBT003  (the signature is pytest's)
    assert "task_always_eager" in refusal(lambda: finetune.apply_async(kwargs=SPEC))
    assert "task_always_eager" in refusal(lambda: finetune.delay(**SPEC))
