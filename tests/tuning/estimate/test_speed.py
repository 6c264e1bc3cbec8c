import numpy as np
import pytest

from celora.tuning.estimate.memory import Shape, lora_parameters
from celora.tuning.estimate.speed import (
    UTILISATION,
    Costs,
    cpu_rate,
    decoding_s,
    forward_s,
    micro_batches,
    training_s,
)
from celora.tuning.protocol import DeviceType
from celora.tuning.recipe import Recipe

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
H100 = DeviceType(name="h100", kind="cuda", memory_bytes=80 * 2**30, flops_per_s=989e12, bandwidth_bytes_per_s=3.35e12)
CPU = DeviceType(name="cpu", kind="cpu", memory_bytes=8 * 2**30, flops_per_s=1e11)


def costs(*, scored=1.0, checkpointing=False, nf4=False):
    return Costs.of(
        Shape.of(LLAMA_8B),
        adapter=lora_parameters(LLAMA_8B, Recipe()),
        nf4=nf4,
        number_bytes=2,
        scored=scored,
        checkpointing=checkpointing,
    )


@pytest.mark.parametrize(
    ("length", "training", "recompute"), [(512, 30.7, 14.2), (2048, 32.2, 14.5), (8192, 37.8, 16.1)]
)
def test_an_8b_model_takes_about_31_gflop_a_token_and_half_of_that_again_with_checkpointing(
    length, training, recompute
):
    # 2N + 2N + 6A + 7SdL with N = 7.504 B (blocks and head), A = 41.9 M, dL = 4096 x 32; again 2 x 6.98 B + 2SdL
    one, width = np.ones(1), np.full(1, float(length))
    without, with_it = (float(costs(checkpointing=on).training_flops(one, width)[0]) / 1e9 for on in (False, True))
    assert without == pytest.approx(training, rel=0.01)
    assert with_it - without == pytest.approx(recompute, rel=0.01)


def test_positions_that_carry_no_loss_skip_the_head():
    head = 4 * 4096 * 128256 / 1e9
    one, width = np.ones(1), np.ones(1)
    all_, none = (float(costs(scored=share).training_flops(one, width)[0]) / 1e9 for share in (1.0, 0.0))
    assert all_ - none == pytest.approx(head)


def test_many_tokens_take_as_long_as_their_operations_at_the_rate_in_force():
    rows, lengths = np.array([8]), np.array([2048])
    flops = float(costs().training_flops(np.array([8 * 2048.0]), np.array([2048.0]))[0])
    assert training_s(costs(), H100, rows, lengths) == pytest.approx(flops / (989e12 * UTILISATION["cuda"]))
    assert training_s(costs(), CPU, rows, lengths) == pytest.approx(flops / (1e11 * UTILISATION["cpu"]))


def test_the_published_run_that_the_utilisation_stems_from_comes_out_again():
    # 12.4k tokens/s: Llama-3.1-8B, bf16 LoRA, one H100
    assert 16 * 2048 / training_s(costs(), H100, np.array([16]), np.array([2048])) == pytest.approx(12_400, rel=0.06)


def test_few_tokens_wait_for_the_host_and_unpacking_adds_its_bytes():
    rows, lengths = np.array([1]), np.array([16])
    assert training_s(costs(), H100, rows, lengths) == pytest.approx(60e-3)
    assert training_s(costs(checkpointing=True), H100, rows, lengths) == pytest.approx(90e-3)
    many = np.array([8]), np.array([2048])
    more = training_s(costs(nf4=True), H100, *many) - training_s(costs(), H100, *many)
    assert more == pytest.approx(2 * 32 * 218_103_808 * (4.127 / 8 + 2) / (3.35e12 * 0.6), rel=1e-3)


def test_measuring_a_loss_takes_less_than_half_of_training():
    batch = np.array([8]), np.array([2048])
    assert 0.4 < forward_s(costs(), H100, *batch) / training_s(costs(), H100, *batch) < 0.5


def test_answers_take_a_step_for_each_token_of_the_longest_in_their_batch():
    prompts = np.full(64, 100)
    short, long = np.full(64, 10), np.full(64, 10)
    long[0] = 200
    one_batch = decoding_s(costs(), H100, prompts[:32], short[:32])
    assert decoding_s(costs(), H100, prompts, short) == pytest.approx(2 * one_batch)
    step = (decoding_s(costs(), H100, prompts, long) - decoding_s(costs(), H100, prompts, short)) / 190
    assert step == pytest.approx(60e-3 / 3)
    slow = H100.model_copy(update={"bandwidth_bytes_per_s": 3e11})
    weights = 2 * (32 * 218_103_808 + 4096 * 128256)
    step = (decoding_s(costs(), slow, prompts, long) - decoding_s(costs(), slow, prompts, short)) / 190
    assert step == pytest.approx(weights / (3e11 * 0.6))
    assert decoding_s(costs(), H100, prompts[:0], short[:0]) == 0


def test_micro_batches_are_those_that_training_makes():
    from celora.tuning.batches.prepared_set import PreparedSet, permutation
    from celora.tuning.batches.sampler import Batches

    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 60, 53)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = PreparedSet("train", np.zeros(offsets[-1], np.int32), np.ones(offsets[-1], np.uint8), offsets)
    cut = Batches(rows, seed=3, micro_batch=4, accumulation=3, pad_id=0)
    batches = [batch for step in range(cut.steps_per_epoch) for batch in cut.window(step)]
    found = micro_batches(lengths, permutation(len(rows), 3, 0), 4, 12)
    assert found[0].tolist() == [len(batch) for batch in batches]
    assert found[1].tolist() == [max(lengths[i] for i in batch) for batch in batches]


def test_fewer_rows_than_a_step_takes_are_one_batch():
    rows, longest = micro_batches(np.array([5, 9]), np.array([1, 0]), 4, 16)
    assert (rows.tolist(), longest.tolist()) == ([2], [9])


def test_this_machines_rate_is_that_of_a_computer():
    assert 1e9 < cpu_rate() < 1e15
