import numpy as np
import pytest

from celora.errors import NotFoundError
from celora.tuning.batches.prepared_set import PreparedSet, SetWriter, eval_rows, prompt_line


def pieces(rng, counts):
    for rows in counts:
        lengths = rng.integers(1, 9, rows)
        size = int(lengths.sum())
        yield rng.integers(0, 50, size).astype(np.int32), rng.integers(0, 2, size).astype(np.uint8), lengths


@pytest.mark.parametrize("counts", [[1], [3, 1, 1200, 2], [0, 5]])
def test_a_set_written_in_pieces_is_the_file_that_numpy_would_have_written_at_once(tmp_path, counts):
    written = list(pieces(np.random.default_rng(1), counts))
    with SetWriter(tmp_path, "train") as writer:
        for piece in written:
            writer.write(*piece)
    tokens, mask, lengths = (np.concatenate(parts) for parts in zip(*written, strict=True))
    for part, whole in (("tokens", tokens), ("mask", mask), ("offsets", np.cumsum([0, *lengths]))):
        np.save(tmp_path / "whole.npy", whole)
        assert (tmp_path / f"train.{part}.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    rows = PreparedSet.load(tmp_path, "train")
    assert len(rows) == writer.rows == sum(counts)
    assert writer.tokens == len(tokens)
    assert writer.trained_tokens == mask.sum()
    assert writer.largest_token == tokens.max()
    assert rows[len(rows) - 1][0].tolist() == tokens[len(tokens) - lengths[-1] :].tolist()


def test_prompts_stand_beside_held_out_rows_only(tmp_path):
    with SetWriter(tmp_path, "near") as writer:
        writer.write(np.array([1, 2], dtype=np.int32), np.array([0, 1], dtype=np.uint8), np.array([2]))
        row = {"prompt_tokens": [1, 2], "prompt": "é\u2028é", "reference": "ü\x85\u2029", "line": 3}
        writer.write_prompts([prompt_line(row)])
    assert list(eval_rows(tmp_path, "near")) == [row]
    with SetWriter(tmp_path, "train") as writer, pytest.raises(ValueError, match="no prompts"):
        writer.write_prompts([""])


def test_a_set_that_is_discarded_leaves_no_file(tmp_path):
    with SetWriter(tmp_path, "eval") as writer, SetWriter(tmp_path, "eval.b"):
        pass
    writer.discard()
    assert {path.name.split(".")[2] for path in tmp_path.iterdir()} == {"b"}
    with pytest.raises(NotFoundError, match="holds no set 'eval'"):
        PreparedSet.load(tmp_path, "eval")
