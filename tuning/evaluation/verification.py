# pyright: basic
# (torch and PEFT ship incomplete types)
"""Verifies a finished adapter from its files alone, as any user would read them, before the adapter is published.

A run that returned is no proof that its adapter is good: files get truncated, keys get renamed, NaN and zero weights
train and save without an error. So the written folder is compared with the job's settings and loaded through plain
PEFT, and the adapter must give the trainer's own loss again. The checks go from cheap to expensive, and the first
failure ends them: files and configuration before the base is loaded, layers and numbers after it, behaviour last.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from ...errors import SettingsError, StorageError, VerificationError
from ...storage.manifest import MANIFEST, files_below, verify_manifest
from ..adapters.load import plain_peft
from ..adapters.lora import expert_names, targets_of
from ..adapters.package import CONFIG, WEIGHTS
from ..protocol import Base
from ..recipe import ResolvedRecipe

EXPECTED_FILES = {CONFIG, WEIGHTS}
UNUSED_OPTIONS = (
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layer_replication",
    "trainable_token_indices",
    "exclude_modules",
    "lora_bias",
    "use_qalora",
)
"""Options of PEFT that no recipe sets; each would change the set of the adapter's weights or their effect."""

LOSS_TOLERANCE = {"float32": (1e-5, 1e-5), "bfloat16": (1e-3, 2e-3), "float16": (3e-4, 5e-4)}
"""Allowed distance of the loss from the trainer's own: absolute (nats per token) plus relative, by compute dtype.

With the same rows, batches and dtype the two losses agree to 1e-7 on the same machine. The tolerance covers the
deviation of another machine's kernels, estimated by other batch shapes. SmolLM2-135M in NF4, tuned loss 0.031 and base
loss 4.56, batches of 1 to 48 rows: at most 1e-8 and 4e-7 apart in fp32, 4e-4 and 1.4e-3 in bf16 (fp16, not measured,
has three more bits). Two of its 210 layers swapped: 4e-4; one tensor of 420 doubled: 1e-4; all doubled: 0.02. So fp32
finds one wrong tensor, 16 bits only a wrong adapter; the manifest and the check ``loads`` find one wrong tensor."""
OTHER_DTYPE_TOLERANCE = (0.01, 0.02)
"""Tolerance where this machine lacks the trainer's 16-bit dtype: bf16 and fp32 were 5e-4 and 0.016 apart."""


class Verification:
    """Runs the checks of one adapter.

    Args:
        folder: The trainer's output: adapter_model.safetensors, adapter_config.json, manifest.json.
        base: The base of the adapter's training.
        recipe: The recipe of the adapter's training.

    Attributes:
        checks: The checks so far: name, ok, detail.
        warnings: Unusual findings that are not failures.
    """

    def __init__(self, folder: Path, base: Base, recipe: ResolvedRecipe) -> None:
        self.folder, self.base, self.recipe = folder, base, recipe
        self.checks: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._config: dict[str, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}

    def files(self) -> None:
        """Check ``files``, ``manifest``, ``config``: only safetensors, unchanged files, the job's settings.

        Raises:
            VerificationError: A check failed; the error names the check and the fault. All methods here raise it.
        """
        if not self.folder.is_dir():
            self._require("files", f"there is no folder {self.folder}")
        found = set(files_below(self.folder))
        self._require(
            "files",
            _sentence("besides an adapter it holds", found - EXPECTED_FILES)
            or _sentence("it lacks", EXPECTED_FILES - found)
            or self._not_safetensors(),
            f"{WEIGHTS} and {CONFIG}, {(self.folder / WEIGHTS).stat().st_size if WEIGHTS in found else 0} bytes",
        )
        self._require("manifest", self._manifest_fault(), "size and SHA-256 of each file as the trainer wrote it")
        self._require(
            "config",
            self._config_fault(),
            f"rank {self.recipe.rank}, alpha {self.recipe.alpha:g}, base {self.base.name}",
        )

    def layers(self, model: Any) -> None:
        """Check ``targets``, ``layers``, ``finite``, ``delta``: the weights are those that the recipe specifies.

        Args:
            model: The loaded base without an adapter.
        """
        self._require("targets", self._targets_fault(model), ", ".join(sorted(self._targets)))
        shapes = expected_shapes(model, self._targets, self.recipe.rank, dora=self.recipe.dora)
        self._tensors = load_file(self.folder / WEIGHTS)
        self._require("layers", _shape_fault(self._tensors, shapes), f"{len(shapes)} tensors of the right shapes")
        bad = [name for name, tensor in self._tensors.items() if not torch.isfinite(tensor).all()]
        self._require("finite", _sentence("NaN or infinite numbers in", bad), "every number is finite")
        norms = _delta_norms(self._tensors, self.recipe.rank)
        still = [name for name, norm in norms.items() if norm == 0]
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        self._require(
            "delta",
            "" if len(still) < len(norms) else "B times A is zero in every layer: it changes nothing",
            f"norm of B times A {total:.4g} over {len(norms)} layers, {len(still)} of them unchanged",
        )
        if still:
            self.warnings.append(f"{len(still)} of {len(norms)} adapted layers learned nothing, first {still[0]}")

    def load(self, model: Any) -> PeftModel:
        """Check ``loads``: plain PEFT loads the file's numbers without a warning; return the loaded model."""
        with self._failing_as("loads"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = plain_peft(model, self.folder)
        complaints = [str(w.message).splitlines()[0] for w in caught if "adapter" in str(w.message)]
        state = get_peft_model_state_dict(loaded, save_embedding_layers=False)
        differs = [name for name in self._tensors.keys() | state.keys() if not self._same(name, state)]
        self._require(
            "loads",
            "; ".join(complaints) or _sentence("in the loaded model these differ from the file:", differs),
            "peft.PeftModel.from_pretrained holds the file's numbers",
        )
        return loaded

    def loss(self, found: float, trainers: float | None, *, compute_dtype: str, summed_tokens: float = 1.0) -> None:
        """Check ``loss``: the reloaded adapter gives the trainer's own loss again.

        Args:
            found: The loss of the reloaded adapter in nats per token.
            trainers: The trainer's own loss over the same rows; None where the trainer had no held-out rows.
            compute_dtype: The dtype of the computation of ``found``.
            summed_tokens: The number of tokens whose nats the loss adds up, which multiplies the rounding: 1 for a mean
                over tokens; beta times an answer's length for a loss of preferences.
        """
        if found - found != 0:
            self._require("loss", f"it is {found}")
        if trainers is None:
            self._require("loss", "", f"{found:.6f}, finite; the trainer has none to compare with (no held-out rows)")
            return
        same = compute_dtype == self.recipe.compute_dtype
        absolute, relative = LOSS_TOLERANCE[compute_dtype] if same else OTHER_DTYPE_TOLERANCE
        tolerance = absolute * max(1.0, summed_tokens) + relative * abs(trainers)
        says = f"{found:.7f} reloaded, {trainers:.7f} in the trainer, {tolerance:.1e} apart at most"
        self._require("loss", "" if abs(found - trainers) <= tolerance else says, says)

    def served(self, found: float, trainers: float | None, dtype: str) -> None:
        """Check that ``loss`` on another base than the trainer's is finite; report the trainer's own loss beside it."""
        told = f"{found:.6f} on the base in {dtype}; " + (
            f"{trainers:.6f} in the trainer, on the base it was trained on" if trainers is not None else "no other"
        )
        self._require("loss", "" if found - found == 0 else told, told)

    def effect(self, change: float) -> None:
        """Check ``effect``: the logits change when the adapter is switched on; ``change`` is the largest difference."""
        says = f"the logits change by {change:.4g} at most when it is switched on"
        self._require("effect", "" if 0 < change < float("inf") else says, says)

    @property
    def _targets(self) -> list[str]:
        """Return the names of layers and experts in the adapter's configuration."""
        return [*self._config["target_modules"], *(self._config.get("target_parameters") or [])]

    def _require(self, name: str, fault: str, detail: str = "") -> None:
        self.checks.append({"name": name, "ok": not fault, "detail": fault or detail})
        if fault:
            raise VerificationError(
                f"the finished adapter failed its check '{name}': {fault}.",
                hint="Nothing was published. The job's log and checkpoints are kept: `celora logs ID`.",
            )

    @contextmanager
    def _failing_as(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  (any error of a reader over a bad file is this check's failure)
            self._require(name, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")

    def _not_safetensors(self) -> str:
        try:
            load_file(self.folder / WEIGHTS)
        except (SafetensorError, OSError, ValueError) as error:
            return f"{WEIGHTS} is no whole safetensors file ({error})"
        return ""

    def _manifest_fault(self) -> str:
        try:
            named = {entry["name"] for entry in verify_manifest(self.folder)["files"]}
        except StorageError as error:
            return error.message.removesuffix(".")
        return _sentence(f"{MANIFEST} does not name", EXPECTED_FILES - named)

    def _config_fault(self) -> str:
        try:
            config = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return f"{CONFIG} can't be read ({error})"
        if not isinstance(config, dict):
            return f"{CONFIG} holds no object"
        self._config = config
        wanted = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base.name,
            "revision": self.base.revision if self.base.kind == "hub" else None,
            "r": self.recipe.rank,
            "lora_alpha": self.recipe.alpha,
            "use_dora": self.recipe.dora,
            "use_rslora": self.recipe.rslora,
            "bias": "none",
        }
        faults = [
            f"{name} is {config.get(name)!r}, not {value!r}"
            for name, value in wanted.items()
            if config.get(name) != value
        ]
        faults += [f"{name} is {config[name]!r}, which no recipe sets" for name in UNUSED_OPTIONS if config.get(name)]
        if not isinstance(config.get("target_modules"), list):
            faults.append(f"target_modules is {config.get('target_modules')!r}, not a list of names")
        if not isinstance(config.get("target_parameters") or [], list):
            faults.append(f"target_parameters is {config['target_parameters']!r}, not a list of names")
        return "; ".join(faults)

    def _targets_fault(self, model: Any) -> str:
        try:
            wanted = set(targets_of(model, self.recipe).names)
        except SettingsError as error:
            return error.message.removesuffix(".")
        found = set(self._targets)
        return _sentence("not asked for:", found - wanted) or _sentence("missing:", wanted - found)

    def _same(self, name: str, state: dict[str, torch.Tensor]) -> bool:
        ours, theirs = self._tensors.get(name), state.get(name)
        if ours is None or theirs is None:
            return False
        return torch.equal(ours.to(theirs.dtype), theirs.cpu())


def expected_shapes(model: Any, targets: list[str], rank: int, *, dora: bool) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of all tensors that an adapter of these targets has: A (rank, in), B (out, rank).

    The tensors of adapted experts hold one such pair for each expert: A (rank x experts, in), B (out, rank x experts).
    """
    head = model.get_output_embeddings()
    experts = set(targets) & set(expert_names(model))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        shapes |= _expert_shapes(name, module, experts, rank)
        if name.rsplit(".", 1)[-1] not in targets or module is head:
            continue
        if not isinstance(module, torch.nn.Linear | Conv1D):
            continue
        inputs, outputs = (
            tuple(module.weight.shape) if isinstance(module, Conv1D) else (module.in_features, module.out_features)
        )
        key = f"base_model.model.{name}"
        shapes[f"{key}.lora_A.weight"] = (rank, inputs)
        shapes[f"{key}.lora_B.weight"] = (outputs, rank)
        if dora:
            shapes[f"{key}.lora_magnitude_vector"] = (outputs,)
    return shapes


def _expert_shapes(name: str, module: Any, experts: set[str], rank: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a module's adapted experts; PEFT wraps the module once for each of its own tensors."""
    last = name.rsplit(".", 1)[-1]
    adapted = [tensor for own, tensor in module.named_parameters(recurse=False) if f"{last}.{own}" in experts]
    shapes: dict[str, tuple[int, ...]] = {}
    for depth, tensor in enumerate(reversed(adapted)):
        count, first, second = tensor.shape
        inputs, outputs = (first, second) if getattr(module, "is_transposed", False) else (second, first)
        key = f"base_model.model.{name}" + ".base_layer" * depth
        shapes[f"{key}.lora_A.weight"] = (rank * count, inputs)
        shapes[f"{key}.lora_B.weight"] = (outputs, rank * count)
    return shapes


def largest_change(model: PeftModel, logits: Callable[[], torch.Tensor]) -> float:
    """Return the largest difference of any logit between adapter on and off; NaN where a logit is NaN."""
    with torch.inference_mode():
        tuned = logits().float()
        with model.disable_adapter():
            return float((tuned - logits().float()).abs().max())


def _shape_fault(tensors: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]]) -> str:
    wrong = [
        f"{name} {tuple(tensors[name].shape)} in place of {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    return (
        _sentence("missing:", shapes.keys() - tensors.keys())
        or _sentence("not asked for:", tensors.keys() - shapes.keys())
        or _sentence("of another shape:", wrong)
    )


def _delta_norms(tensors: dict[str, torch.Tensor], rank: int) -> dict[str, float]:
    """Compute the Frobenius norm of B A by layer, from the small products: |BA|² = sum of (BᵀB) * (A Aᵀ).

    Of experts, A holds one expert's rows after the other, and B the experts' columns side by side for each rank.
    """
    norms: dict[str, float] = {}
    for name, tensor in tensors.items():
        if name.endswith(".lora_A.weight"):
            a = tensor.double().reshape(-1, rank, tensor.shape[1])
            b = tensors[name.replace(".lora_A.", ".lora_B.")].double()
            b = b.reshape(b.shape[0], rank, -1).permute(2, 0, 1)
            squares = ((b.mT @ b) * (a @ a.mT)).sum().clamp(min=0)
            norms[name.removesuffix(".lora_A.weight")] = float(squares.sqrt())
    return norms


def _sentence(what: str, names: Any) -> str:
    """Return ``what`` and the first few names; empty where there are no names."""
    some = sorted(names)
    return f"{what} {', '.join(some[:3])}" + (f" and {len(some) - 3} more" if len(some) > 3 else "") if some else ""  # noqa: PLR2004
