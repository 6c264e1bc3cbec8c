import math

import numpy as np
import pytest

from celora.tuning.protocol import HubAccess


@pytest.fixture(scope="module")
def model(tiny_base, tmp_path_factory):
    from celora.tuning.base import load_model

    return load_model(
        tiny_base, tmp_path_factory.mktemp("cache"), HubAccess(offline=True), quantization="none",
        compute_dtype="float32", device="cpu", emit=lambda *_, **__: None,
    )[0]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(4)
    made = [(rng.integers(3, 90, n), rng.integers(0, 2, n)) for n in (9, 3, 14, 5, 8)]
    return [*made, (np.array([5, 6, 7]), np.zeros(3, dtype=int))]


def test_the_weighted_mean_of_the_rows_is_the_loss_that_the_trainer_measures(model, rows):
    from celora.tuning.loss import eval_loss
    from celora.tuning.scoring import row_losses

    found = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    assert found.mean == pytest.approx(eval_loss(model, rows, 2, 0, "cpu"), rel=1e-7)


def test_a_rows_loss_does_not_depend_on_its_neighbours(model, rows):
    from celora.tuning.scoring import row_losses

    together = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    for i, row in enumerate(rows):
        alone = row_losses(model, [row], batch_rows=2, pad_id=0, device="cpu")
        assert together.sums[i] == pytest.approx(alone.sums[0], rel=1e-5)
        assert together.tokens[i] == int(row[1][1:].sum())


def test_a_row_without_trained_tokens_has_no_loss(model, rows):
    from celora.tuning.scoring import row_losses

    found = row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    assert found.of_row(5) is None
    assert math.isnan(row_losses(model, rows[5:], batch_rows=2, pad_id=0, device="cpu").mean)


def test_progress_is_told_in_rows(model, rows):
    from celora.tuning import scoring

    seen = []
    scoring.row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu", progress=lambda *step: seen.append(step))
    assert seen == [(2, 6), (4, 6), (6, 6)]
