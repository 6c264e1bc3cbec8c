"""States in torch's own format: tensors and plain values come back, code does not."""

import io
import os
import pickle
from functools import partial

import pytest
import torch

from celora.tuning.torch_files import load_state


def test_the_state_of_an_optimizer_comes_back_whole(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    found = load_state(tmp_path / "optimizer.pt", "cpu")
    assert found["param_groups"][0]["lr"] == 0.1
    assert torch.equal(found["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    with (tmp_path / "optimizer.pt").open("rb") as file:
        assert load_state(file, "cpu").keys() == found.keys()


class Attack:
    """Unpickled without a restriction, it would make a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("write", [torch.save, partial(pickle.dump, protocol=2)], ids=["torch.save", "pickle"])
def test_code_in_a_file_does_not_run(tmp_path, write):
    buffer = io.BytesIO()
    write({"state": Attack(str(tmp_path / "attacked"))}, buffer)
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        load_state(buffer, "cpu")
    assert not (tmp_path / "attacked").exists()
