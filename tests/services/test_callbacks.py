from types import SimpleNamespace

import pytest
from celery import Celery, chain, chord, group

from celora.errors import SettingsError
from celora.services.callbacks import PARTS, check_callbacks

app = Celery("application", set_as_current=False)
good = app.signature("a.b", args=(1,), kwargs={"c": 2}, queue="mine")


def request_with(**parts):
    import json

    found = {part: json.loads(json.dumps(parts.get(part))) for part in PARTS}
    return SimpleNamespace(**found)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"callbacks": [good, good.clone(countdown=5, headers={"trace": "1"})]},
        {"errbacks": [good.clone(immutable=True)]},
        {"chain": [app.signature("celora.finetune", kwargs={"base_model": "b"}, queue="celora")]},
        {"chain": [group(good, chain(good, good)), good]},
        {"chord": chord([good, good], good)},
        {"callbacks": [chain(good, chord([good], good))]},
    ],
    ids=str,
)
def test_what_celery_builds_passes_and_stays(parts):
    request = request_with(**parts)
    check_callbacks(request)
    assert all(getattr(request, part) is not None for part in parts)


@pytest.mark.parametrize(
    "value",
    [
        "x",
        [1, 2],
        [{"task": 5}],
        [{"task": "a.b", "options": {"queue": {"a": 1}}}],
        [{"task": "celery.group", "args": [], "kwargs": {"tasks": 5}, "options": {}, "subtask_type": "group"}],
        [{"task": "celery.chord", "kwargs": {"header": 1, "body": 2}, "options": {}, "subtask_type": "chord"}],
        [{"task": "x.y", "options": {"serializer": "pickle"}}],
        [{"task": "celora.reevaluate", "args": ["j"], "options": {"queue": "gpu.cpu"}}],
        [
            {
                "task": "celery.group",
                "kwargs": {"tasks": [{"task": "celora.train"}]},
                "options": {},
                "subtask_type": "group",
            }
        ],
        [{"task": "x.y", "options": {"countdown": "x"}}],
        [{"task": "x.y", "options": {"connection": "redis://127.0.0.1:1/0"}}],
    ],
    ids=str,
)
@pytest.mark.parametrize("part", PARTS)
def test_what_could_not_be_called_at_the_end_is_refused_now_and_taken_off(part, value):
    request = request_with(**{part: value})
    with pytest.raises(SettingsError, match=f"malformed .{part}: "):
        check_callbacks(request)
    assert getattr(request, part) is None


def test_a_signature_that_is_nested_too_deeply_is_refused():
    deep = {"task": "a.b", "args": [], "kwargs": {}, "options": {}}
    for _ in range(200):
        deep = {"task": "celery.chain", "args": [], "kwargs": {"tasks": [deep]}, "options": {}, "subtask_type": "chain"}
    with pytest.raises(SettingsError, match="nested deeper"):
        check_callbacks(SimpleNamespace(callbacks=[deep], errbacks=None, chain=None, chord=None))
