"""The dtypes that people serve models in, by the short names that everybody uses."""

from enum import StrEnum

from ..tuning.protocol import Dtype


class Precision(StrEnum):
    """A floating-point format of weights."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"

    @property
    def dtype(self) -> Dtype:
        """Its name in torch."""
        names: dict[str, Dtype] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
        return names[self.value]
