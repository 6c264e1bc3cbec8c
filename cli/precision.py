"""Names the dtypes for serving models by their common short names."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..tuning.protocol import Dtype


class Precision(StrEnum):
    """A floating-point format of weights."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"

    @property
    def dtype(self) -> "Dtype":
        """Name in torch."""
        names: dict[str, Dtype] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
        return names[self.value]
