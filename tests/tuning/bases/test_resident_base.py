"""One loaded base is kept for the next run, under the conditions of that run."""

from pathlib import Path

import pytest

from celora.errors import BaseModelError, DeviceError
from celora.tuning.protocol import HubAccess


@pytest.fixture
def load(tiny_base, tmp_path_factory):
    """Loads the tiny base through a resident base."""
    from celora.tuning.bases.resident_base import ResidentBase

    resident = ResidentBase()

    def load(*, base=tiny_base, hub=None, quantization="none", compute_dtype="float32"):
        return resident.load_model(
            base,
            tmp_path_factory.getbasetemp() / "cache",
            hub or HubAccess(offline=True),
            quantization=quantization,
            compute_dtype=compute_dtype,
            device="cpu",
            emit=lambda *_, **__: None,
        )

    load.resident = resident
    return load


def test_the_same_base_is_the_same_object_and_another_replaces_it(load):
    first, _ = load()
    load.resident.take_back()
    assert load()[0] is first
    load.resident.take_back()
    holding = load.resident.holding
    assert (holding.runs, holding.quantization, holding.compute_dtype) == (2, "none", "float32")
    assert holding.memory_bytes > 0
    other, unquantized = load(quantization="nf4")
    assert other is not first
    assert load.resident.holding.runs == 1
    assert unquantized == load()[1]
    load.resident.drop()
    assert load.resident.holding is None


def test_a_run_whose_request_does_not_allow_the_base_does_not_get_it_from_memory_either(load, tmp_path):
    load()
    load.resident.take_back()
    with pytest.raises(BaseModelError, match="not among those that this installation allows"):
        load(hub=HubAccess(offline=True, allowed_bases=["another/*"]))
    with pytest.raises(BaseModelError):
        load(hub=HubAccess(offline=True, local_roots=[str(tmp_path)]))


def test_a_base_whose_weights_have_changed_is_dropped_and_named(load):
    model, _ = load()
    weight = model.model.layers[1].mlp.up_proj.weight
    weight.data[0, 0] += 1
    with pytest.raises(DeviceError, match=r"layers\.1\.mlp\.up_proj\.weight is not what was loaded \(1 of"):
        load.resident.take_back()
    assert load.resident.holding is None
    load.resident.take_back()
    assert load()[0].model.layers[1].mlp.up_proj.weight[0, 0] != weight[0, 0]


def test_a_base_that_is_not_in_the_cache_is_an_error_and_leaves_nothing(load, tiny_base):
    gone = tiny_base.model_copy(update={"source": str(Path(tiny_base.source) / "gone")})
    with pytest.raises(BaseModelError):
        load(base=gone)
    assert load.resident.holding is None
    load.resident.take_back()
