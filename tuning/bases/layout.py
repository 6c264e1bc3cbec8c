"""Sorts a base's weights by the headers of its files: embedding rows, linear layers, experts. No torch.

The headers reveal an unusable base before a GPU is reserved: tokens beyond the embedding, target modules that do not
exist, weights that 4-bit loading leaves unquantized.

Unusual: the names of a file are not always those of the loaded model, since transformers renames and joins weights of
some families (the experts of a mixture become one tensor). So this module reports only weights that certainly exist or
are certainly large; ``adapters.targets`` asks the model itself where the headers leave a doubt.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from ..model_config import text_config
from .model_files import read_json, tensor_shapes

NF4_INPUTS = 64
"""Inputs of a 4-bit layer are whole quantization blocks of 64: else blocks span rows, which the fused kernels of
bitsandbytes 0.50 refuse."""
NF4_OUTPUTS = 32
"""Outputs of a 4-bit layer are whole tiles of 32 (the packed CPU kernel: "N must be divisible by block_n")."""

EMBEDDINGS = frozenset(
    {"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embedding", "embeddings"}
)
POSITIONS = frozenset({"wpe", "embed_positions", "position_embeddings"})
HEADS = frozenset({"lm_head", "embed_out", "output_head"})
TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt"})
"""Model types whose layers are transformers' Conv1D, which stores a matrix as inputs x outputs."""
EXPERT = re.compile(r"\.experts\.(\d+\.)?")
LAYER = re.compile(r"\.\d+\.")

Sides = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Weights of one name, over all layers, that 4-bit loading leaves in 16 bits.

    Attributes:
        name: The name, with ``*`` for the number of a layer or an expert.
        count: The number of tensors.
        parameters: The number of parameters in them.
        adapted: True for layers; of experts, true if the job's adapter changes them.
        expert: True for the experts of a mixture.
    """

    name: str
    count: int
    parameters: int
    adapted: bool
    expert: bool


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The tensors of a base by their headers.

    Attributes:
        shapes: Shape of each tensor, by name.
        vocabulary: ``vocab_size`` of the configuration; None where the configuration has none.
        model_type: ``model_type`` of the configuration.
        adapts_experts: True if the job's adapter changes the experts.
    """

    shapes: dict[str, tuple[int, ...]]
    vocabulary: int | None
    model_type: str
    adapts_experts: bool = False

    @classmethod
    def of(cls, folder: Path) -> "Layout":
        """Read the headers of a base's folder.

        Raises:
            BaseModelError: A file is missing, truncated or no safetensors file.
        """
        config = text_config(read_json(folder / "config.json"))
        size = config.get("vocab_size")
        return cls(
            shapes=dict(tensor_shapes(folder)),
            vocabulary=size if isinstance(size, int) else None,
            model_type=str(config.get("model_type", "")),
        )

    @cached_property
    def embedding_rows(self) -> int | None:
        """Return the rows of the token embedding: of its tensor, else by the configuration; None if neither says."""
        rows = [shape[0] for name, shape in self.shapes.items() if len(shape) > 1 and _last(name) in EMBEDDINGS]
        return rows[0] if len(rows) == 1 else self.vocabulary

    @cached_property
    def linears(self) -> dict[str, Sides]:
        """Return inputs and outputs of each linear layer's matrix, by the module's name, without the output head."""
        return {
            name.removesuffix(".weight"): self._sides(shape)
            for name, shape in self.shapes.items()
            if name.endswith(".weight") and len(shape) == 2 and not EXPERT.search(name)  # noqa: PLR2004  (a matrix)
            and _last(name) not in EMBEDDINGS | POSITIONS | HEADS
        }  # fmt: skip

    @property
    def linear_names(self) -> list[str]:
        """Return the last parts of the linear layers' names."""
        return sorted({name.rsplit(".", 1)[-1] for name in self.linears})

    @property
    def has_experts(self) -> bool:
        """Return whether the weights contain a mixture of experts."""
        return any(EXPERT.search(name) for name in self.shapes)

    def kept(self) -> list[Kept]:
        """Return the weights that 4-bit loading leaves in 16 bits, except embedding, head and norms; largest first."""
        found: dict[str, list[int]] = {}
        for name, sizes in self._kept_tensors():
            found.setdefault(name, []).append(sizes)
        kept = [
            Kept(
                name=name,
                count=len(sizes),
                parameters=sum(sizes),
                adapted=self.adapts_experts or not _expert(name),
                expert=_expert(name),
            )
            for name, sizes in found.items()
        ]
        return sorted(kept, key=lambda each: -each.parameters)

    def _kept_tensors(self) -> Iterator[tuple[str, int]]:
        for name, shape in self.shapes.items():
            if EXPERT.search(name) and len(shape) > 1:
                yield _pattern(name), prod(shape)
        for name, (inputs, outputs) in self.linears.items():
            if not fits_nf4(inputs, outputs):
                yield _pattern(name), inputs * outputs

    def _sides(self, shape: tuple[int, ...]) -> Sides:
        first, second = shape
        return (first, second) if self.model_type in TRANSPOSED else (second, first)


def fits_nf4(inputs: int, outputs: int) -> bool:
    """Return whether a linear layer of this shape can be stored in 4 bits."""
    return not (inputs % NF4_INPUTS or outputs % NF4_OUTPUTS)


def _expert(pattern: str) -> bool:
    return bool(EXPERT.search(pattern.replace("*", "0")))


def _last(name: str) -> str:
    return name.removesuffix(".weight").rsplit(".", 1)[-1]


def _pattern(name: str) -> str:
    """Return the name with ``*`` for its numbers: ``model.layers.*.mlp.experts.*.up_proj``."""
    return LAYER.sub(".*.", LAYER.sub(".*.", name.removesuffix(".weight")))
