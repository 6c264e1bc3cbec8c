"""A trainer of TRL in single steps: its window, its clipping."""

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks by the old name
]


def run(request, record):
    from celora.tuning.training.run import train  # imports torch

    return train(request, record, record.stop)


def losses(record):
    return [event["loss"] for event in record.of("progress")]


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(4, 1), (1, 4)])
def test_accumulation_normalises_by_the_trained_tokens_of_the_whole_window(
    make_request, recorder, micro_batch, accumulation
):
    one, other = recorder(), recorder()
    run(make_request(out="one", dropout=0, micro_batch=2, accumulation=2), one)
    run(make_request(out="other", dropout=0, micro_batch=micro_batch, accumulation=accumulation), other)
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    norms = [[event["grad_norm"] for event in record.of("progress")] for record in (one, other)]
    assert norms[0] == pytest.approx(norms[1], abs=1e-4)


def test_gradients_are_clipped_to_the_set_norm(make_request, recorder):
    free, tight = recorder(), recorder()
    run(make_request(out="free", max_grad_norm=100.0, max_steps=3), free)
    run(make_request(out="tight", max_grad_norm=1e-6, max_steps=3), tight)
    assert tight.of("progress")[0]["grad_norm"] == pytest.approx(free.of("progress")[0]["grad_norm"])
    moved = [losses(record)[2] - losses(record)[1] for record in (free, tight)]
    assert moved[0] != moved[1]


@pytest.fixture
def uneven(make_prepared, tiny_base):
    """Prepared rows of 1 to 3 trained tokens, and some of 40, so that micro batches weigh differently."""
    import numpy as np
    from tiny_models import write_set

    folder = make_prepared(tiny_base)
    dice = np.random.default_rng(5)
    given = []
    for number in range(12):
        trained = 40 if number % 4 == 0 else 1 + number % 3
        tokens = dice.integers(3, 96, 6 + trained)
        given.append((tokens, np.r_[np.zeros(6), np.ones(trained)]))
    write_set(folder, "train", given)
    return folder


def window_by_hand(model, batches, step):
    """Loss and norm of the gradient of a window in plain torch: each row alone, summed, over the window's tokens."""
    import torch

    total, count = torch.zeros(()), 0
    for number in (row for batch in batches.window(step) for row in batch):
        tokens, mask = (torch.from_numpy(each.astype("int64")) for each in batches.rows[number])
        logits = model(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1)
        chosen = logits.gather(1, tokens[1:, None])[:, 0]
        total, count = total - (chosen * mask[1:]).sum(), count + int(mask[1:].sum())
    loss = total / count
    loss.backward()
    norm = torch.stack([each.grad.norm() for each in model.parameters() if each.requires_grad]).norm()
    model.zero_grad()
    return loss.item(), norm.item()


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(4, 1), (1, 4), (2, 2), (3, 2)])
def test_each_token_of_a_window_weighs_the_same_as_in_plain_torch(
    make_request, recorder, uneven, micro_batch, accumulation
):
    from celora.tuning.failures import Situation
    from celora.tuning.training.run import Run  # imports torch

    record = recorder()
    request = make_request(
        prepared=uneven, dropout=0, epochs=1, micro_batch=micro_batch, accumulation=accumulation, max_grad_norm=1000
    )
    whole = Run(request, record, record.stop, Situation("cpu"))
    model, batches = whole.engine._model, whole.engine._trainer.batches
    assert whole.begin()
    weights, step, going = set(), 0, True
    while going:
        loss, norm = window_by_hand(model, batches, step)
        weights |= {sum(int(batches.rows[row][1].sum()) for row in batch) for batch in batches.window(step)}
        going = whole.advance()
        step += 1
        told = record.of("progress")[-1]
        assert (told["step"], told["loss"]) == (step, pytest.approx(loss, abs=1e-5))
        assert told["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert step == -(-12 // (micro_batch * accumulation))
    assert accumulation == 1 or len(weights) > 1, "the micro batches had equal numbers of trained tokens"
