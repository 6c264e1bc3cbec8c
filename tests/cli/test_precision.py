from typing import get_args

from celora.cli.precision import Precision
from celora.tuning.protocol import Dtype


def test_every_dtype_has_one_short_name():
    assert {precision.value: precision.dtype for precision in Precision} == {
        "bf16": "bfloat16", "fp16": "float16", "fp32": "float32",
    }  # fmt: skip
    assert {precision.dtype for precision in Precision} == set(get_args(Dtype))
