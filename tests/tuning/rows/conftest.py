import json

import pytest

from celora.tuning.rows.row_reader import read


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(
            b"".join(
                (row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()) + b"\n"
                for row in rows
            )
        )
        return path

    return write


@pytest.fixture
def only_bad(write):
    """Reads rows and returns the only bad line among them."""

    def only_bad(*rows):
        data = read(write(*rows))
        assert len(data.bad.shown) == 1, data.bad.shown
        return data.bad.shown[0]

    return only_bad
