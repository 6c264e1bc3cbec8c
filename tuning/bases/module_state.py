# pyright: basic
# (torch and transformers ship incomplete types)
"""Records a loaded model, and restores it after a run that changed it: layers, attributes, flags and configuration.

A run leaves much on a base: PEFT replaces layers, TRL wraps ``forward``, trainers switch to training mode, register
hooks, turn on gradient checkpointing and edit the configuration. Undoing each of these by name would miss the next one.
So the record holds the contents of every module's ``__dict__``, and restoring replaces them. The weights are not
copied: ``digests`` shows if they are the same.

Runs that share the weights at one time cannot share the modules. Each gets a ``twin``: a structure of its own over the
same weights.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from transformers import GenerationConfig, PretrainedConfig

CHUNK_WORDS = 1 << 20
"""64-bit words of a tensor that are digested at once (8 MiB)."""


class ModuleState:
    """The structure of a model at the time of the construction.

    Args:
        model: The model; the record refers to its modules and parameters, and copies no weights.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = [(module, type(module), _contents(vars(module))) for module in model.modules()]
        self._parameters = [(one, one.data, one.requires_grad, _contents(vars(one))) for one in model.parameters()]
        self._configs = {id(config): config for module in model.modules() for config in _configs(vars(module))}
        self._settings = {key: self._copied(vars(config)) for key, config in self._configs.items()}

    def restore(self) -> None:
        """Restore the structure; the weights keep their values."""
        for module, kind, contents in self._modules:
            module.__class__ = kind
            _put_back(vars(module), contents)
        for parameter, data, trains, contents in self._parameters:
            _put_back(vars(parameter), contents)
            if parameter.dtype != data.dtype or parameter.data_ptr() != data.data_ptr():
                parameter.data = data
            parameter.grad = None
            parameter.requires_grad_(trains)
        for key, config in self._configs.items():
            vars(config).clear()
            vars(config).update(self._copied(self._settings[key]))

    def _copied(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Copy the settings of a configuration deeply; a configuration inside it stays the same object."""
        return copy.deepcopy(settings, dict(self._configs))


def twin(model: torch.nn.Module) -> Any:
    """Return a copy of a model's structure over the same memory of weights: modules, hooks, flags and configuration.

    Gradients, ``requires_grad`` and adapters of one copy are not seen by another one.

    Raises:
        ValueError: The model keeps a tensor in a place that would be copied.
    """
    same: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        same[id(parameter)] = copy.copy(parameter)  # another object over the same memory
        same.update(_quantization(parameter))
    for module in model.modules():
        same.update(_quantization(module))
    made = copy.deepcopy(model, same)
    found = {name: tensor.data_ptr() for name, tensor in _tensors(model)}
    copied = sorted(name for name, tensor in _tensors(made) if tensor.data_ptr() != found.get(name))
    if copied:
        raise ValueError(f"the weights {', '.join(copied[:3])} of {type(model).__name__} would be in memory twice")
    return made


def _quantization(owner: Any) -> dict[int, Any]:
    """Return the constants of a quantized weight by their id; a weight and its layer refer to them."""
    state = getattr(owner, "quant_state", None)
    return {} if state is None else {id(state): state}


def digests(model: torch.nn.Module) -> dict[str, tuple[Any, ...]]:
    """Return shape, dtype and digest of each tensor of a model: its weights, buffers and quantization constants.

    The digest is a sum of the tensor's 64-bit words, each times an odd number that depends on its place, modulo 2^64.
    A change of one word changes it for certain; it is no cryptographic hash.
    """
    return {name: (tuple(one.shape), str(one.dtype), _digest(one)) for name, one in _tensors(model)}


def size_bytes(model: torch.nn.Module) -> int:
    """Return the memory of a model's tensors."""
    return sum(one.numel() * one.element_size() for _, one in _tensors(model))


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        yield name, parameter.data
        yield from _constants(name, getattr(parameter, "quant_state", None))
    yield from model.named_buffers()


def _constants(name: str, state: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a weight's quantization, which are attributes of bitsandbytes' own objects."""
    if state is None:
        return
    for key, value in vars(state).items():
        if isinstance(value, torch.Tensor):
            yield f"{name}.{key}", value
        elif key == "state2":  # the constants are quantized themselves
            yield from _constants(f"{name}.{key}", value)


def _digest(tensor: torch.Tensor) -> int:
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    whole = len(flat) // 8 * 8
    words = flat[:whole].clone() if flat.storage_offset() % 8 else flat[:whole]
    words = words.view(torch.int64)
    places = 2 * torch.arange(min(CHUNK_WORDS, len(words)), device=tensor.device) + 1
    sums = [(part * places[: len(part)]).sum() for part in words.split(CHUNK_WORDS)] if whole else []
    sums.append(flat[whole:].to(torch.int64).sum())
    chunks = 2 * torch.arange(len(sums), device=tensor.device) + 1
    return int((torch.stack(sums) * chunks).sum())


def _configs(attributes: dict[str, Any]) -> Iterator[Any]:
    """Yield the configurations among attributes, and those inside them (``text_config``)."""
    for value in attributes.values():
        if isinstance(value, PretrainedConfig | GenerationConfig):
            yield value
            yield from _configs(vars(value))


Contents = dict[str, tuple[Any, Any]]
"""Attributes: each value, and a copy of its content where it is a container."""


def _contents(attributes: dict[str, Any]) -> Contents:
    return {
        name: (value, copy.copy(value) if isinstance(value, dict | list | set) else None)
        for name, value in attributes.items()
    }


def _put_back(attributes: dict[str, Any], contents: Contents) -> None:
    for name in attributes.keys() - contents.keys():
        del attributes[name]
    for name, (value, content) in contents.items():
        attributes[name] = value
        if isinstance(value, list):
            value[:] = content
        elif isinstance(value, dict | set):
            value.clear()
            value.update(content)
