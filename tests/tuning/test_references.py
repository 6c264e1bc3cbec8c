"""Our engine against a plain TRL script and a bare PyTorch + PEFT loop; the benchmark's own code, with few steps."""

import importlib.util
import os
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks by the old name
]


@pytest.fixture(scope="module")
def references():
    import torch

    torch.set_num_threads(1)
    path = Path(__file__).parents[2] / "benchmarks" / "references.py"
    spec = importlib.util.spec_from_file_location("references", path)
    module = importlib.util.module_from_spec(spec)
    kept = dict(os.environ)
    spec.loader.exec_module(module)
    os.environ.clear()
    os.environ.update(kept)
    return module


def test_curve_and_weights_are_those_of_a_plain_trl_script_and_of_a_bare_loop(references, tmp_path):
    import torch

    source = references.random_base(tmp_path / "base", 96, 64, 2)
    bench = references.prepare_bench(source, tmp_path, steps=6, row_tokens=16)
    ours, trl, bare = (references.RUNS[name](bench) for name in ("celora", "trl", "bare"))
    assert ours.losses == pytest.approx(trl.losses, abs=1e-5)
    assert ours.losses == pytest.approx(bare.losses, abs=1e-5)
    for other in (trl, bare):
        for name, weight in ours.adapter.items():
            torch.testing.assert_close(weight, other.adapter[name].detach(), rtol=1e-4, atol=1e-5)
    moved = [weight.abs().max() for name, weight in ours.adapter.items() if "lora_B" in name]
    assert min(moved) > 1e-4
