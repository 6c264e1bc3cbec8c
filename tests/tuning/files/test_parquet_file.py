import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celora.errors import DataError
from celora.tuning.rows.data_file import require_good
from celora.tuning.rows.row_reader import read


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def test_a_bad_row_is_named_by_its_number_and_its_column(write):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}]
    rows.append({"prompt": "a\0", "completion": "b"})
    bad = read(write("rows.parquet", as_parquet(rows))).bad.shown
    assert [(one.line, one.path, one.kind) for one in bad] == [(2, "completion", "empty"), (3, "prompt", "nul")]


def test_the_fields_that_parquet_fills_up_with_nulls_are_gone(write):
    function = {"name": "stock", "arguments": '{"item": 7}'}
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Stock?"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": function}]},
                {"role": "tool", "content": "12", "tool_call_id": "c1"},
                {"role": "assistant", "content": "12."},
            ]
        }
    ]
    data = read(write("rows.parquet", as_parquet(rows)))
    require_good(data)
    assert data.rows[0].weights == [0, 1, 0, 1]
    assert "tool_calls" not in data.rows[0].messages[3]


def test_a_file_that_is_cut_off_is_refused_with_the_library_s_words(write):
    with pytest.raises(DataError, match="no Parquet file that can be read"):
        read(write("rows.parquet", as_parquet([{"text": "a"}])[:-20]))
