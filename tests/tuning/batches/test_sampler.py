import numpy as np
import pytest
import torch
from transformers import GemmaConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config

from celora.tuning.batches.loss import pad_batch, summed_loss
from celora.tuning.batches.prepared_set import PreparedSet, permutation
from celora.tuning.batches.sampler import Batches, isolated, pack_batch

torch.set_num_threads(1)

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=6),
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "phi3": Phi3Config(**SIZES),
}


def make_model(config, attention="sdpa"):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def make_rows(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.integers(1, 50, n).astype(np.int32), (np.arange(n) >= n // 2).astype(np.uint8)) for n in lengths]


def make_set(lengths):
    rows = make_rows(lengths)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    return PreparedSet("train", np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]), offsets)


def make_batches(lengths, *, micro_batch=2, accumulation=2, pack_tokens=None, seed=5):
    return Batches(
        make_set(lengths),
        seed=seed,
        micro_batch=micro_batch,
        accumulation=accumulation,
        pad_id=0,
        pack_tokens=pack_tokens,
    )


def windows(batches, epoch):
    first = epoch * batches.steps_per_epoch
    return [batches.window(step) for step in range(first, first + batches.steps_per_epoch)]


def rows_of(window):
    return {row for batch in window for row in batch}


LENGTHS = [4, 9, 5, 7, 6, 8, 3, 10, 4, 5, 6]


def test_an_epoch_visits_every_row_once_in_an_order_of_seed_and_epoch_alone():
    batches = make_batches(LENGTHS)
    first = windows(batches, 0)
    assert sorted(row for window in first for row in rows_of(window)) == list(range(11))
    assert [len(window) for window in first] == [2, 2, 2]
    assert batches.steps_per_epoch == 3
    assert windows(batches, 1) != first
    assert windows(make_batches(LENGTHS), 0) == first
    assert windows(make_batches(LENGTHS, seed=6), 0) != first


def test_a_step_s_window_is_the_same_whichever_was_asked_for_before():
    forward = make_batches(LENGTHS)
    seen = [forward.window(step) for step in range(9)]
    assert seen == [make_batches(LENGTHS).window(step) for step in range(9)]
    assert seen[::-1] == [forward.window(step) for step in reversed(range(9))]


def test_epochs_are_counted_in_micro_batches():
    batches = make_batches(LENGTHS)
    assert [batches.epochs_after(step) for step in range(5)] == [0.0, 2 / 6, 4 / 6, 1.0, 1 + 2 / 6]


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_how_a_window_is_cut_does_not_change_which_rows_a_step_sees(micro_batch, accumulation):
    batches = make_batches(LENGTHS, micro_batch=micro_batch, accumulation=accumulation)
    found = [rows_of(window) for window in windows(batches, 3)]
    assert found == [rows_of(window) for window in windows(make_batches(LENGTHS), 3)]
    assert found[0] == set(permutation(11, 5, 3)[:4].tolist())


def test_rows_of_like_length_share_a_micro_batch():
    (window,) = windows(make_batches([2, 9, 2, 9], accumulation=2), 0)
    assert {frozenset(batch) for batch in window} == {frozenset({0, 2}), frozenset({1, 3})}


def test_a_micro_batch_counts_its_tokens_without_the_padding():
    batches = make_batches([4, 9], micro_batch=2, accumulation=1)
    assert int(batches.collate([0, 1])["tokens"]) == 13


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_s_loss_is_the_same_packed_and_alone(family, attention):
    model = make_model(FAMILIES[family], attention)
    rows = make_rows([7, 12, 5, 9, 3])
    unmasked = (np.zeros(1), np.zeros(1))
    assert isolated(model, 50, "cpu")
    with torch.no_grad():
        for i, (tokens, mask) in enumerate(rows):
            alone = summed_loss(model, pad_batch([(tokens, mask)], 0))
            # every row of the line is there, and only row i carries loss
            line = [(other, m if j == i else np.zeros_like(m)) for j, (other, m) in enumerate(rows)]
            packed = summed_loss(model, pack_batch([line, [unmasked]], 0))
            trained = mask[1:].sum()
            assert packed.item() / trained == pytest.approx(alone.item() / trained, abs=1e-5)


def test_packed_rows_do_not_predict_each_other_s_first_token():
    tokens = np.array([3, 4, 5])
    batch = pack_batch([[(tokens, np.ones(3)), (tokens + 10, np.ones(3))]], 0)
    assert batch["shift_labels"].tolist() == [[4, 5, -100, 14, 15, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2]]


def test_a_model_that_lets_packed_rows_see_each_other_is_found_out():
    model = make_model(FAMILIES["llama"])

    class Leaky(torch.nn.Module):
        """What a flash-attention build without variable lengths does: positions are used, boundaries are not."""

        def forward(self, input_ids, position_ids, **options):
            ones = torch.ones_like(input_ids)
            return model(input_ids=input_ids, position_ids=position_ids, attention_mask=ones, **options)

    assert not isolated(Leaky(), 50, "cpu")
