import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from celora.tuning.batches import loss
from celora.tuning.batches.loss import next_token_labels, pad_batch, summed_loss
from celora.tuning.batches.row_losses import row_losses

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    made = []
    for length in (5, 9, 3, 12, 7):
        mask = (rng.random(length) < 0.5).astype(np.uint8)
        mask[-1] = 1
        made.append((rng.integers(1, 50, length).astype(np.int32), mask))
    return made


def by_hand(model, rows):
    """One row at a time through log-softmax, straight from the definition."""
    total, count = 0.0, 0
    with torch.no_grad():
        for tokens, mask in rows:
            logits = model(input_ids=torch.tensor(tokens[None].astype(np.int64))).logits[0].double()
            for i in range(1, len(tokens)):
                if mask[i]:
                    total -= logits[i - 1].log_softmax(-1)[int(tokens[i])].item()
                    count += 1
    return total / count


def test_labels_are_shifted_and_only_masked_tokens_count():
    assert next_token_labels([5, 6, 7], [0, 0, 1]).tolist() == [-100, 7, -100]
    assert next_token_labels([5, 6, 7], [1, 1, 0]).tolist() == [6, -100, -100]
    assert next_token_labels([5], [1]).tolist() == [-100]


@pytest.mark.parametrize("batch_rows", [1, 2, 5, 100])
def test_the_loss_of_a_set_is_the_mean_over_its_trained_tokens_whatever_the_batch(model, rows, batch_rows):
    assert row_losses(model, rows, batch_rows=batch_rows, pad_id=0, device="cpu").mean == pytest.approx(
        by_hand(model, rows), abs=1e-6
    )


def test_the_loss_is_transformers_own(model, rows):
    batch = pad_batch(rows, 0)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, 1:] = batch["shift_labels"][:, :-1]
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    trained = (batch["shift_labels"] != -100).sum()
    assert (summed_loss(model, batch) / trained).item() == pytest.approx(theirs.item(), abs=1e-6)


def test_scoring_in_pieces_changes_neither_loss_nor_gradient(model, rows, monkeypatch):
    def gradients():
        model.zero_grad()
        value = summed_loss(model, pad_batch(rows, 0))
        value.backward()
        return value.item(), [parameter.grad.clone() for parameter in model.parameters()]

    whole, whole_gradients = gradients()
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 4 * 50)
    pieces, piece_gradients = gradients()
    assert pieces == pytest.approx(whole, rel=1e-6)
    for one, other in zip(whole_gradients, piece_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_batch_without_a_trained_token_has_loss_0_and_a_gradient(model, rows):
    value = summed_loss(model, pad_batch([(rows[0][0], np.zeros(5))], 0))
    value.backward()
    assert value.item() == 0.0


@pytest.mark.parametrize("training", [True, False])
def test_the_model_s_mode_is_kept(model, rows, training):
    model.train(training)
    row_losses(model, rows, batch_rows=2, pad_id=0, device="cpu")
    assert model.training is training
    model.eval()
