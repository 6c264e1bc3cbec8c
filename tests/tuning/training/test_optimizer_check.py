import pytest
import torch

from celora.tuning.training import optimizer_check


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def test_an_optimizer_that_comes_back_as_it_was_has_no_fault():
    assert optimizer_check.fault(adamw, "cpu") is None


def test_the_8_bit_one_is_tried_for_real_and_its_moments_are_8_bit():
    made = []

    def make(parameters):
        made.append(optimizer_check.paged_adamw_8bit(parameters))
        return made[-1]

    assert optimizer_check.fault(make, "cpu") is None
    assert {state["state1"].dtype for one in made for state in one.state.values()} == {torch.uint8}


class Forgetful(torch.optim.AdamW):
    """Loads everything but its second moments, as releases of 8-bit optimizers did."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["exp_avg_sq"].zero_()


class Broken(torch.optim.AdamW):
    def load_state_dict(self, state_dict):
        raise ValueError("loaded state dict contains a parameter group that doesn't match\nthe size")


class Idle(torch.optim.SGD):
    def step(self, closure=None):
        pass


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, "the step after loading differs by up to "),
        (Broken, "ValueError: loaded state dict contains a parameter group that doesn't match"),
        (Idle, "a step changes nothing"),
    ],
)
def test_one_that_loses_something_on_the_way_is_told(kind, words):
    fault = optimizer_check.fault(lambda parameters: kind(parameters, lr=1e-2), "cpu")
    assert fault.startswith(words)
    assert "\n" not in fault


def test_trying_leaves_the_random_state_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    optimizer_check.fault(adamw, "cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
