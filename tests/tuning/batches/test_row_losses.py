import math

import numpy as np
import pytest

from celora.tuning.protocol import HubAccess


@pytest.fixture(scope="module")
def model(tiny_base, tmp_path_factory):
    from celora.tuning.bases.base import load_model

    return load_model(
        tiny_base, tmp_path_factory.mktemp("cache"), HubAccess(offline=True), quantization="none",
        compute_dtype="float32", device="cpu", emit=lambda *_, **__: None,
    )[0]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(4)
    made = [(rng.integers(3, 90, n), rng.integers(0, 2, n)) for n in (9, 3, 14, 5, 8)]
    return [*made, (np.array([5, 6, 7]), np.zeros(3, dtype=int))]


def test_the_weighted_mean_of_the_rows_is_the_loss_that_training_descends(model, rows):
    import torch

    from celora.tuning.batches.loss import IGNORED, pad_batch, summed_loss
    from celora.tuning.batches.row_losses import row_losses

    found = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    batch = pad_batch(rows, 0)
    trained = int((batch["shift_labels"] != IGNORED).sum())
    with torch.no_grad():
        assert found.mean == pytest.approx(float(summed_loss(model, batch)) / trained, rel=1e-6)


def test_the_accuracy_counts_the_trained_tokens_that_are_the_models_likeliest(model, rows):
    import torch

    from celora.tuning.batches.loss import IGNORED, pad_batch, summed_loss
    from celora.tuning.batches.row_losses import RowLosses, row_losses

    right, likeliest = [], 0
    with torch.no_grad():
        summed_loss(model, pad_batch(rows, 0), right)
        for tokens, mask in rows:
            guesses = model(torch.from_numpy(tokens)[None]).logits[0].argmax(dim=-1)
            likeliest += sum(int(mask[i + 1] and guesses[i] == tokens[i + 1]) for i in range(len(tokens) - 1))
    found = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    assert sum(found.right) == likeliest == int(right[0])
    trained = int((pad_batch(rows, 0)["shift_labels"] != IGNORED).sum())
    assert found.accuracy == likeliest / trained
    assert RowLosses([1.0], [2]).accuracy is None


def test_a_rows_loss_does_not_depend_on_its_neighbours(model, rows):
    from celora.tuning.batches.row_losses import row_losses

    together = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    for i, row in enumerate(rows):
        alone = row_losses(model, [row], batch_rows=2, pad_id=0, device="cpu")
        assert together.sums[i] == pytest.approx(alone.sums[0], rel=1e-5)
        assert together.tokens[i] == int(row[1][1:].sum())


def test_a_row_without_trained_tokens_has_no_loss(model, rows):
    from celora.tuning.batches.row_losses import row_losses

    found = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    assert found.of_row(5) is None
    assert math.isnan(row_losses(model, rows[5:], batch_rows=2, pad_id=0, device="cpu").mean)


def test_progress_is_told_in_rows(model, rows):
    from celora.tuning.batches import row_losses as scoring

    seen = []
    scoring.row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu", progress=lambda *step: seen.append(step))
    assert seen == [(2, 6), (4, 6), (6, 6)]


def test_the_tokens_that_the_model_follows_are_counted_up_to_the_first_other_one(model):
    import torch

    from celora.tuning.batches.row_losses import row_losses

    start = torch.tensor([[5, 9, 30]])
    with torch.no_grad():
        for _ in range(4):  # greedy, by hand
            best = model(start).logits[0, -1].argmax()
            start = torch.cat([start, best.view(1, 1)], dim=1)
    followed, other = start[0].numpy(), start[0].numpy().copy()
    other[5] = (other[5] + 1) % 96
    mask = np.array([0, 0, 0, 1, 1, 1, 1])
    rows = [(followed, mask), (other, mask), (other[:2], np.zeros(2, dtype=int))]
    found = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu", margin=0.0)
    assert found.followed == [4, 2, 0]
    assert row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu", margin=1e9).followed == [0, 0, 0]
    plain = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    assert (plain.followed, plain.sums, plain.tokens) == ([], found.sums, found.tokens)
