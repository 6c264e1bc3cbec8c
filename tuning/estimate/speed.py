"""Computes the time of training and evaluation on a device from the operations they need; arithmetic, no torch.

The slowest of three things limits a step: the multiplications, at a share of the device's rate that
transformer training reaches in practice; unpacking the 4-bit weights, at a share of its memory's; and the host, which
has to launch every kernel. The time of loading the base, of checkpoints and of data is not included.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..protocol import DeviceType
from .memory import FP32, NF4_BITS, Shape

UTILISATION = {"cuda": 0.38, "cpu": 0.5}
"""Share of the rate that training reaches. CUDA: Llama-3.1-8B with bf16 LoRA made 12.4k tokens/s on an H100, 380 of 989
TFLOP/s (the baseline of LoRAFusion, arXiv 2510.00206); half of the peak counts as very good (LLMQ, arXiv 2512.15306).
CPU: half of what a plain matrix product reaches, because norms, softmax and small matrices lie between the products."""

BANDWIDTH_SHARE = 0.6
"""Share of the memory's rate that a kernel which only moves bytes reaches (a model, not a measurement)."""

LAUNCH_S = 60e-3 / 32
"""Host time of one block's forward and backward pass on CUDA, seconds: an 8B step of eager transformers and PEFT
launches about 10,000 kernels, 40 to 80 ms for 32 blocks (a model, not a measurement)."""

DECODE_ROWS = 32
"""Prompts that ``evaluate`` answers at once."""

PROBE = 64
PROBE_PRODUCTS = 200
PROBES = 8


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Holds the cost of one pass, from the shapes of a base and an adapter.

    FLOPs a token: forward 2N, backward to the activations 2N (the base is frozen, so its weights get no gradient),
    6A for the A adapter weights, which get one (Kaplan et al., arXiv 2001.08361, section 2.1: 2 a weight forward, 4
    backward). Attention of causal rows adds 2 S d a block forward and 2.5 times that backward (FlashAttention-2, arXiv
    2307.08691, section 4.1). Checkpointing repeats the blocks' forward pass.

    Attributes:
        blocks: Weights of the blocks that a token is multiplied with.
        head: Weights of the output head; only scored positions go through it.
        adapter: Weights of the adapter.
        width: Layers times the attention's width, the factor of S.
        layers: Blocks.
        nf4: True if the blocks' weights are kept in 4 bits.
        number_bytes: Bytes of a number in the compute dtype.
        scored: Share of the tokens that carry loss.
        checkpointing: True if the blocks run forward twice.
    """

    blocks: int
    head: int
    adapter: int
    width: int
    layers: int
    nf4: bool
    number_bytes: int
    scored: float
    checkpointing: bool

    @classmethod
    def of(
        cls, shape: Shape, *, adapter: int, nf4: bool, number_bytes: int, scored: float, checkpointing: bool
    ) -> "Costs":
        """Return the costs of a decoder."""
        return cls(
            blocks=shape.multiplied_parameters,
            head=shape.hidden * shape.vocabulary,
            adapter=adapter,
            width=shape.layers * shape.queries,
            layers=shape.layers,
            nf4=nf4,
            number_bytes=number_bytes,
            scored=scored,
            checkpointing=checkpointing,
        )

    def training_flops(self, tokens: NDArray[np.float64], length: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the operations of forward and backward over ``tokens``, padding included, in rows of ``length``."""
        forward = 2 * self.blocks + 2 * self.width * length
        a_token = 4 * (self.blocks + self.head * self.scored) + 6 * self.adapter + 7 * self.width * length
        return tokens * (a_token + (forward if self.checkpointing else 0))

    def forward_flops(self, tokens: NDArray[np.float64], length: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the operations of a forward pass alone."""
        return tokens * (2 * (self.blocks + self.head * self.scored + self.adapter) + 2 * self.width * length)

    def unpacking_bytes(self) -> float:
        """Return the bytes moved to unpack all 4-bit weights once: read packed, written in the compute dtype."""
        return self.blocks * (NF4_BITS / 8 + self.number_bytes) if self.nf4 else 0.0


def training_s(costs: Costs, device: DeviceType, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> float:
    """Return the seconds of one epoch.

    Args:
        costs: The costs of a token.
        device: The device type.
        rows: Rows of each micro batch.
        lengths: Tokens of the longest row of each micro batch, to which the others are padded.
    """
    passes = 3 if costs.checkpointing else 2
    width = lengths.astype(np.float64)
    compute = costs.training_flops(rows * width, width) / _rate(device)
    return _sum_s(compute, device, costs, passes=passes, launches=passes / 2)


def forward_s(costs: Costs, device: DeviceType, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> float:
    """Return the seconds to measure the loss of batches of ``rows`` rows, each padded to ``lengths``."""
    width = lengths.astype(np.float64)
    compute = costs.forward_flops(rows * width, width) / _rate(device)
    return _sum_s(compute, device, costs, passes=1, launches=1 / 3)


def decoding_s(costs: Costs, device: DeviceType, prompts: NDArray[np.int64], answer_tokens: NDArray[np.int64]) -> float:
    """Return the seconds to answer prompts, 32 at a time, each batch until its longest answer has ended.

    A step reads every weight once, which on a GPU takes longer than the few multiplications (Pope et al., arXiv
    2211.05102, section 2); the prompts themselves are one forward pass.
    """
    if not len(prompts):
        return 0.0
    order = np.argsort(-prompts, kind="stable")
    starts = np.arange(0, len(prompts), DECODE_ROWS)
    rows = np.minimum(DECODE_ROWS, len(prompts) - starts)
    steps = np.maximum.reduceat(answer_tokens[order], starts)
    weights = costs.blocks * (NF4_BITS / 8 if costs.nf4 else costs.number_bytes) + costs.head * costs.number_bytes
    read = weights / (device.bandwidth_bytes_per_s * BANDWIDTH_SHARE) if device.bandwidth_bytes_per_s else 0.0
    multiply = rows * 2.0 * (costs.blocks + costs.head + costs.adapter) / _rate(device)
    a_step = np.maximum(np.maximum(multiply, read) + _unpack_s(costs, device), _launch_s(costs, device) / 3)
    return float((a_step * steps).sum()) + forward_s(costs, device, rows, np.maximum.reduceat(prompts[order], starts))


def micro_batches(
    lengths: NDArray[np.int64], order: NDArray[np.int64], micro_batch: int, window: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and longest row of each micro batch of an epoch, as ``batches`` cuts them: by length within a window.

    Args:
        lengths: Tokens of each sequence.
        order: The order in which the epoch visits the sequences.
        micro_batch: Sequences in one forward pass.
        window: Sequences in one optimizer step.
    """
    visited = lengths[order]
    whole = len(visited) // window * window
    parts = [np.sort(visited[:whole].reshape(-1, window), axis=1), np.sort(visited[whole:])[None, :]]
    rows: list[NDArray[np.int64]] = []
    longest: list[NDArray[np.int64]] = []
    for part in parts:
        if not part.size:
            continue
        starts = np.arange(0, part.shape[1], micro_batch, dtype=np.int64)
        rows.append(np.tile(np.diff(np.append(starts, part.shape[1])), part.shape[0]))
        longest.append(np.maximum.reduceat(part, starts, axis=1).reshape(-1))
    return np.concatenate(rows), np.concatenate(longest)


def cpu_rate() -> float:
    """Measure the operations a second that this machine's idle cores reach in fp32 matrix products.

    One core is measured, in its own CPU time, so that other processes count little; the matrices are so small that
    no BLAS library shares them out. The rate is multiplied with the number of cores.
    """
    left, product = np.ones((PROBE, PROBE), dtype=np.float32), np.empty((PROBE, PROBE), dtype=np.float32)
    best = float("inf")
    for _ in range(PROBES):
        begun = time.thread_time()
        for _ in range(PROBE_PRODUCTS):
            np.matmul(left, left, out=product)
        best = min(best, time.thread_time() - begun)
    return cores() * PROBE_PRODUCTS * 2 * PROBE**3 / best


def cpu_number_bytes() -> int:
    """Return the bytes of a number that a CPU here computes with: 2 (bf16) where torch finds AVX-512, else 4 (fp32)."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return FP32
    return FP32 // 2 if {"avx512bw", "avx512vl", "avx512dq"} <= flags else FP32


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rate(device: DeviceType) -> float:
    return device.flops_per_s * UTILISATION[device.kind]


def _unpack_s(costs: Costs, device: DeviceType) -> float:
    if not device.bandwidth_bytes_per_s:
        return 0.0
    return costs.unpacking_bytes() / (device.bandwidth_bytes_per_s * BANDWIDTH_SHARE)


def _launch_s(costs: Costs, device: DeviceType) -> float:
    return LAUNCH_S * costs.layers if device.kind == "cuda" else 0.0


def _sum_s(compute: NDArray[np.float64], device: DeviceType, costs: Costs, *, passes: float, launches: float) -> float:
    return float(np.maximum(compute + passes * _unpack_s(costs, device), launches * _launch_s(costs, device)).sum())
