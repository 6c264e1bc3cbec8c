# pyright: basic
# (torch and PEFT ship incomplete types)
"""The check of a finished adapter: read as a stranger would, before anything is published.

A run that returned is no proof that its adapter is good: files get cut, keys get renamed, NaN and zero weights train
and save without complaint. So the written folder is compared with what the job asked for, loaded through plain PEFT and
made to give the trainer's own loss again. The checks go from cheap to dear, and the first that fails ends them: files
and configuration before the base is loaded, layers and numbers after it, behaviour last.
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

from ..settings.errors import SettingsError, StorageError, VerificationError
from ..storage.manifest import MANIFEST, files_below, verify_manifest
from .adapter import CONFIG, WEIGHTS
from .lora import linear_names, resolve_targets
from .protocol import Base
from .recipe import ResolvedRecipe

EXPECTED_FILES = {CONFIG, WEIGHTS}
UNUSED_OPTIONS = (
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "exclude_modules",
    "lora_bias",
    "use_qalora",
)
"""Options of PEFT that no recipe sets: each would change which weights count, or how much."""

LOSS_TOLERANCE = {"float32": (1e-5, 1e-5), "bfloat16": (1e-3, 2e-3), "float16": (3e-4, 5e-4)}
"""How far the loss may be from the trainer's own: absolute (nats per token) plus relative, by compute dtype.

Same rows, same batches, same dtype: on the same machine the two agree to 1e-7. What is allowed is what another
machine's kernels may do, taken from other batch shapes. SmolLM2-135M in NF4, tuned loss 0.031 and base loss 4.56,
batches of 1 to 48 rows: at most 1e-8 and 4e-7 apart in fp32, 4e-4 and 1.4e-3 in bf16 (fp16, not measured, has three
more bits). Two of its 210 layers swapped: 4e-4; one tensor of 420 doubled: 1e-4; all doubled: 0.02. So fp32 finds one
wrong tensor, 16 bits only a wrong adapter; the manifest and the check of what PEFT holds guard against the former."""
OTHER_DTYPE_TOLERANCE = (0.01, 0.02)
"""The same where the trainer computed in 16 bits and this machine can't: bf16 and fp32 were 5e-4 and 0.016 apart."""


class Verification:
    """The checks of one adapter.

    Args:
        folder: What the trainer wrote: adapter_model.safetensors, adapter_config.json, manifest.json.
        base: The base it was trained on.
        recipe: The recipe it was trained with.

    Attributes:
        checks: What was checked so far: name, ok, detail.
        warnings: What is odd and no failure.
    """

    def __init__(self, folder: Path, base: Base, recipe: ResolvedRecipe) -> None:
        self.folder, self.base, self.recipe = folder, base, recipe
        self.checks: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._config: dict[str, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}

    def files(self) -> None:
        """Checks ``files``, ``manifest``, ``config``: nothing but safetensors, unchanged since written, as asked for.

        Raises:
            VerificationError: Naming the check and what it found; so do all methods here.
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
        """Checks ``targets``, ``layers``, ``finite``, ``delta``: the weights are those that the recipe asks for.

        Args:
            model: The base, loaded, without an adapter.
        """
        self._require("targets", self._targets_fault(model), ", ".join(sorted(self._config["target_modules"])))
        shapes = expected_shapes(model, self._config["target_modules"], self.recipe.rank, dora=self.recipe.dora)
        self._tensors = load_file(self.folder / WEIGHTS)
        self._require("layers", _shape_fault(self._tensors, shapes), f"{len(shapes)} tensors of the right shapes")
        bad = [name for name, tensor in self._tensors.items() if not torch.isfinite(tensor).all()]
        self._require("finite", _sentence("NaN or infinite numbers in", bad), "every number is finite")
        norms = _delta_norms(self._tensors)
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
        """Check ``loads``: plain PEFT takes it, without a warning, and holds the file's numbers; the model with it."""
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

    def loss(self, found: float, trainers: float | None, *, compute_dtype: str) -> None:
        """Check ``loss``: the reloaded adapter gives the trainer's own loss again.

        Args:
            found: Of the reloaded adapter, nats per token.
            trainers: The trainer's own over the same rows; None where it had no held-out rows.
            compute_dtype: What ``found`` was computed in.
        """
        if found - found != 0:
            self._require("loss", f"it is {found}")
        if trainers is None:
            self._require("loss", "", f"{found:.6f}, finite; the trainer has none to compare with (no held-out rows)")
            return
        same = compute_dtype == self.recipe.compute_dtype
        absolute, relative = LOSS_TOLERANCE[compute_dtype] if same else OTHER_DTYPE_TOLERANCE
        tolerance = absolute + relative * abs(trainers)
        says = f"{found:.7f} reloaded, {trainers:.7f} in the trainer, {tolerance:.1e} apart at most"
        self._require("loss", "" if abs(found - trainers) <= tolerance else says, says)

    def served(self, found: float, trainers: float | None, dtype: str) -> None:
        """Check ``loss`` on another base than the trainer's: finite; the trainer's own is told beside it."""
        told = f"{found:.6f} on the base in {dtype}; " + (
            f"{trainers:.6f} in the trainer, on the base it was trained on" if trainers is not None else "no other"
        )
        self._require("loss", "" if found - found == 0 else told, told)

    def effect(self, change: float) -> None:
        """Check ``effect``: the logits change when the adapter is switched on; ``change`` is the largest difference."""
        says = f"the logits change by {change:.4g} at most when it is switched on"
        self._require("effect", "" if 0 < change < float("inf") else says, says)

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
        except Exception as error:  # noqa: BLE001  (whatever a reader raises on a bad file is this check's failure)
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
        return "; ".join(faults)

    def _targets_fault(self, model: Any) -> str:
        try:
            wanted = set(resolve_targets(self.recipe.target_modules, linear_names(model)))
        except SettingsError as error:
            return error.message.removesuffix(".")
        found = set(self._config["target_modules"])
        return _sentence("not asked for:", found - wanted) or _sentence("missing:", wanted - found)

    def _same(self, name: str, state: dict[str, torch.Tensor]) -> bool:
        ours, theirs = self._tensors.get(name), state.get(name)
        if ours is None or theirs is None:
            return False
        return torch.equal(ours.to(theirs.dtype), theirs.cpu())


def plain_peft(model: Any, folder: Path) -> PeftModel:
    """An adapter folder on a base, through plain PEFT; the one place that loads adapters, from safetensors alone.

    Raises:
        StorageError: The folder has no safetensors weights (PEFT would fall back to unpickling others).
    """
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise StorageError(f"{folder} is no adapter: {WEIGHTS} or {CONFIG} is missing.")
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5 by a deprecated name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        loaded = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    loaded.eval()
    return loaded


def add_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Load one more adapter beside those of a model; ``model.set_adapter(name)`` switches to it.

    Raises:
        StorageError: The folder has no safetensors weights.
    """
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise StorageError(f"{folder} is no adapter: {WEIGHTS} or {CONFIG} is missing.")
    model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
    model.eval()


def expected_shapes(model: Any, targets: list[str], rank: int, *, dora: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors that an adapter of these targets has: A (rank, in), B (out, rank)."""
    head = model.get_output_embeddings()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
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


def largest_change(model: PeftModel, logits: Callable[[], torch.Tensor]) -> float:
    """The largest difference of any logit between adapter on and off; NaN where one is not a number."""
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


def _delta_norms(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Frobenius norm of B A by layer, from the small products: |BA|² = sum of (BᵀB) * (A Aᵀ)."""
    norms: dict[str, float] = {}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            b = tensors[name.replace(".lora_A.", ".lora_B.")].double()
            a64 = a.double()
            norms[name.removesuffix(".lora_A.weight")] = float(((b.T @ b) * (a64 @ a64.T)).sum().clamp(min=0).sqrt())
    return norms


def _sentence(what: str, names: Any) -> str:
    """``what`` and the first few names; empty where there is none."""
    some = sorted(names)
    return f"{what} {', '.join(some[:3])}" + (f" and {len(some) - 3} more" if len(some) > 3 else "") if some else ""  # noqa: PLR2004
