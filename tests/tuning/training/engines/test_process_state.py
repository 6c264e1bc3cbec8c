import random

import numpy as np
import pytest
import torch

from celora.tuning.training.engines.process_state import ProcessState


def draw():
    return random.random(), float(np.random.random()), float(torch.rand(1))  # noqa: S311, NPY002  (the process's own)


def draw_and_fail():
    draw()
    return 1 / 0


def seed(number):
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


def drawn_alone(number, count):
    seed(number)
    return [draw() for _ in range(count)]


def test_two_states_draw_in_turns_what_each_draws_alone():
    expected = {number: drawn_alone(number, 4) for number in (1, 2)}
    states, found = {number: ProcessState("cpu") for number in (1, 2)}, {1: [], 2: []}
    for number, state in states.items():
        with state.installed():
            seed(number)
    for _ in range(4):
        for number, state in states.items():
            with state.installed():
                found[number].append(draw())
    assert found == expected


def test_the_process_draws_on_as_if_nothing_had_been():
    expected = drawn_alone(3, 2)
    seed(3)
    found = [draw()]
    state = ProcessState("cpu")
    with state.installed():
        seed(9)
        draw()
    with pytest.raises(ZeroDivisionError), state.installed():
        draw_and_fail()
    assert [*found, draw()] == expected


def test_each_state_has_accelerate_s_precision_of_its_own():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    states = {precision: ProcessState("cpu") for precision in ("bf16", "no")}
    for precision, state in states.items():
        with state.installed():
            AcceleratorState._reset_state(reset_partial_state=True)
            Accelerator(mixed_precision=precision, cpu=True)
    for precision, state in states.items():
        with state.installed():
            assert AcceleratorState().mixed_precision == precision
