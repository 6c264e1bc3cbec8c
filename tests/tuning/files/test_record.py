import dataclasses

import pytest

from celora.tuning.files.record import Record


def test_a_record_is_a_number_and_values_and_does_not_change():
    record = Record(3, {"a": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.number = 4
    assert (record.number, record.value) == (3, {"a": 1})
