"""Defines the messages between the supervisor and the trainer program: one JSON object a line.

The trainer reads requests on its standard input; end of file there means that the supervisor is gone. After the request
come ``{"op": "cancel", "job": ID}`` and, where it is ``acknowledged``, ``{"op": "kept", "job": ID, "step": N}``. The
trainer writes events to a pipe of their own, because libraries print. No torch here: both sides import this module.

An event line is ``{"v": 1, "event": NAME, "job": ID, "attempt": N, …}``:

    phase       phase (words), done, total (any unit, or null)      what happens before the first step; eta_s if known
    started     resolved, planned_steps, resume_step, trainable_parameters, total_parameters, unquantized_layers
    progress    step, steps, epoch, loss, accuracy (of tokens, null under preferences), learning_rate, grad_norm,
                tokens, tokens_per_s, eta_s, gpu_memory_bytes, gpu_utilisation (the last two null on a CPU)
                (phase and progress have device_s too where runs share a device: the seconds that are this run's)
    eval        step, eval_loss, eval_accuracy
    sample      step, prompt, answer, reference
    checkpoint  step, path, size_bytes; epoch where it was asked for at the end of an epoch
    note        level (info, warning), message; kind (a stable word) and data, where programs may want to know
    receipt     receipt       the receipt of data that is refused; that of good data is in prepare's result
    done        result (one of the Result models below, as JSON)
    failed      error {code, message, hint, facts}; the facts are numbers, those of a lack of memory: phase, step,
                micro_batch, accumulation, gradient_checkpointing, max_length, total_bytes, used_bytes, peak_bytes
    drained     step      stopped on request after a checkpoint; the exit code is 75
"""

import json
import time
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ..storage.json_values import storable
from .recipe import Adjusted, Recipe, ResolvedRecipe

PROTOCOL_VERSION = 1
EXIT_DRAINED = 75

Dtype = Literal["float32", "bfloat16", "float16"]
Emit = Callable[..., None]
"""``emit(event, **fields)``: how the code below the trainer program reports."""


class Turn(Protocol):
    """The turn of a run on a device that several runs of one process share (``training/turns.py``)."""

    def over(self, least_s: float = 0.0) -> None:
        """Hand the device over after a step; after less than a step, once the turn has taken so many seconds."""
        ...

    def clock(self) -> float:
        """Return the seconds of a clock that stands still while the run does not have the device."""
        ...


class WholeDevice:
    """Implements ``Turn`` for a run that shares its device with no other one."""

    def over(self, least_s: float = 0.0) -> None:
        """Go on at once."""
        del least_s

    def clock(self) -> float:
        """Return the seconds of the monotonic clock."""
        return time.monotonic()


WHOLE_DEVICE = WholeDevice()
PART_S = 0.5
"""Seconds of a turn without a step, such as the batches of an evaluation."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(_Message):
    """Names a resolved base model so that any machine finds the very same weights."""

    source: str = Field(description="what the caller wrote")
    kind: Literal["hub", "folder", "gguf", "catalogue"]
    name: str = Field(description="what an adapter_config may name: the hub id, or the source; never a cache path")
    revision: str = Field(description="hub commit, or 'sha256:…' of the weights file(s)")
    parameters: int = Field(description="number of weights")
    context_tokens: int = Field(description="the model's context, tokens")
    model_type: str = Field(description="config.json's model_type")


class HubAccess(_Message):
    """Limits the fetching of base models; the token comes in the environment (HF_TOKEN), never in a message."""

    endpoint: str = "https://huggingface.co"
    offline: bool = False
    allowed_bases: list[str] = Field(default_factory=list, description="shell patterns; empty allows all")
    remote_code_bases: list[str] = Field(default_factory=list)
    local_roots: list[str] | None = Field(
        default=None, description="folders that local bases may be read from; null: whoever asks named files of his own"
    )

    def allows_code(self, name: str) -> bool:
        """Return whether the operator listed the base among those whose own code may run."""
        return any(fnmatch(name, pattern) for pattern in self.remote_code_bases)


class _Request(_Message):
    v: int = PROTOCOL_VERSION
    job: str
    attempt: int
    cache_dir: str = Field(description="converted and quantized bases")
    hub: HubAccess = HubAccess()
    threads: int = Field(default=0, description="CPU threads; 0: all cores")


class Limits(_Message):
    """Limits the resources of the trainer program while it reads foreign data; 0 is no limit."""

    memory_bytes: int = Field(default=0, description="memory of its own, beside what libraries map")
    cpu_s: int = Field(default=0, description="CPU seconds, all threads together")
    file_bytes: int = Field(default=0, description="size of the largest file that it writes")
    wall_s: int = Field(default=0, description="seconds, fetching the base apart")
    render_s: int = Field(
        default=10, description="seconds that a chat template has for one conversation; it takes 0.0001"
    )


class SourceAccess(_Message):
    """Names the allowed origins of datasets beside local files; the default allows none."""

    allowed_schemes: list[str] = Field(default_factory=list, description="of https, http, s3, gs, hub")
    allowed_hosts: list[str] = Field(default_factory=list, description="hosts and buckets, shell patterns")
    max_bytes: int = Field(default=0, description="size of the largest file that is fetched; 0: no limit")
    local_roots: list[str] | None = Field(
        default=None, description="folders that local files may be read from; null: whoever asks named files of his own"
    )


class DeviceType(_Message):
    """Describes one type of device that the receipt estimates for."""

    name: str = Field(description="as the catalogue calls it")
    kind: Literal["cpu", "cuda"]
    memory_bytes: int
    flops_per_s: float = Field(default=0, description="dense 16-bit peak; 0 for a CPU, which is measured where it is")
    bandwidth_bytes_per_s: float = Field(default=0, description="of its memory; 0 where unknown")
    price_per_hour: float = 0.0


class PrepareRequest(_Request):
    """Read, check, format, split and tokenize a dataset; resolve and fetch the base. ``check`` writes no file."""

    op: Literal["prepare", "check"] = "prepare"
    base_model: str
    revision: str | None = None
    dataset: str = Field(description="training rows: a local path, or a source that may be fetched")
    eval_datasets: dict[str, str] = Field(default_factory=dict, description="held-out rows by name, alike")
    file_names: dict[str, str] = Field(
        default_factory=dict, description="names of files by set, for people, where the path has another: faq.jsonl"
    )
    columns: dict[str, str] = Field(default_factory=dict, description="what the files call the columns we know")
    sources: SourceAccess = SourceAccess()
    eval_fraction: float = 0.1
    recipe: Recipe
    seed: int
    out_dir: str = Field(description="where the prepared files are written")
    duplicates: Literal["drop", "keep"] = Field("drop", description="what becomes of repeated training rows")
    near_duplicates: float | None = Field(None, description="similarity from which on a row counts as repeated")
    unknown_keys: Literal["refuse", "warn", "ignore"] = Field("warn", description="what becomes of keys not read")
    too_long: Literal["cut", "drop"] = Field("cut", description="what becomes of rows longer than max_length")
    devices: list[DeviceType] = Field(default_factory=list[DeviceType], description="what the receipt estimates for")
    eval_max_rows: int = Field(200, description="rows for which evaluate will generate; for the estimate alone")
    eval_max_new_tokens: int = Field(256, description="tokens it will generate a row; for the estimate alone")
    limits: Limits = Limits()
    owner: str = Field("", description="whose prepared data may be reused; empty: everybody's")


class IndexRequest(_Request):
    """Read a dataset file line by line and write the hashes of its rows."""

    op: Literal["index"] = "index"
    dataset: str = Field(description="local path")
    out_file: str = Field(description="where the sorted hashes are written")
    examples: bool = Field(default=False, description="whether each row must be an example that can be trained on")
    limits: Limits = Limits()


class IndexResult(_Message):
    """Reports the content of a dataset file."""

    rows: int
    distinct_rows: int
    sha256: str
    size_bytes: int


class PrepareResult(_Message):
    """Reports the result of ``prepare``."""

    base: Base
    dataset_sha256: str
    train_rows: int
    eval_rows: dict[str, int] = Field(description="held-out rows by set; the first is the one metrics speak of")
    train_tokens: int = Field(description="tokens of the training rows after truncation")
    trained_tokens: int = Field(description="of these, the tokens that carry loss")
    max_length: int
    template: str = Field(description="'own' for the base's chat template, else the name of ours")
    memory_bytes: int = Field(description="device memory that training needs at least, an estimate")
    receipt: dict[str, Any] = Field(description="everything else that was found, for people; also receipt.json")
    warnings: list[str] = Field(default_factory=list)


class TrainRequest(_Request):
    """Train an adapter, from the start or from a checkpoint."""

    op: Literal["train"] = "train"
    base: Base
    prepared_dir: str
    recipe: Recipe
    resolved: ResolvedRecipe | None = Field(None, description="the recipe of an earlier attempt, to be continued")
    adjusted: Adjusted | None = Field(None, description="limits that the device's memory forced (recipe.within)")
    seed: int
    out_dir: str = Field(description="this attempt's folder: adapter/, checkpoints/, trackers/")
    resume_from: str | None = Field(None, description="folder of a committed checkpoint")
    start_from: str | None = Field(None, description="folder of the adapter that training goes on from")
    reference: str | None = Field(default=None, description="folder of the adapter that preferences are compared with")
    device: Literal["cpu", "cuda"] = "cpu"
    device_memory_bytes: int = Field(0, description="memory the job may plan with; 0: ask the device")
    keep_checkpoints: int = 2
    acknowledged: bool = Field(
        default=False, description="whether to wait at each checkpoint for the word that it is put away (op kept)"
    )
    grace_s: float = Field(60, description="seconds to leave in, once the supervisor is gone; then it ends at once")


class TrainResult(_Message):
    """Reports the result of training; it is sent only after every planned step, all of them finite."""

    resolved: ResolvedRecipe
    steps: int
    planned_steps: int = Field(description="larger than steps only where early stopping ended the run")
    stopped_early: bool = False
    train_loss: float = Field(description="mean over the run")
    eval_loss: float | None = Field(description="the trainer's own, first held-out set, of the adapter that was saved")
    trainable_parameters: int
    total_parameters: int
    unquantized_layers: list[str] = Field(default_factory=list)
    tokens: int
    train_s: float
    peak_memory_bytes: int | None = None
    adapter_dir: str
    exact: bool = Field(default=True, description="False where it was resumed elsewhere; the warnings say what differs")
    warnings: list[str] = Field(default_factory=list)


class Rival(_Message):
    """Names another adapter on the same base, to be measured on the same rows."""

    side: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = Field(
        description="what it is called in the metrics and rows; not base and not tuned"
    )
    adapter_dir: str = Field(description="a folder with its adapter_model.safetensors and adapter_config.json")


class EvaluateRequest(_Request):
    """Load the adapter through plain PEFT, verify it, and measure it against its base and its rivals."""

    op: Literal["evaluate"] = "evaluate"
    base: Base
    prepared_dir: str
    adapter_dir: str
    recipe: ResolvedRecipe
    metrics: list[str]
    max_rows: int = 200
    max_new_tokens: int = 256
    trainer_eval_loss: float | None = None
    reference: str | None = Field(default=None, description="folder of the adapter that preferences are compared with")
    rivals: list[Rival] = Field(default_factory=list[Rival], description="measured on the same base, in this process")
    whole_sets: list[str] = Field(default_factory=list, description="held-out sets that max_rows does not limit")
    serving_dtype: Dtype | None = Field(
        default=None, description="measure on the unquantized base in this dtype, as it will be served"
    )
    seed: int = 0
    out_dir: str = Field(description="where rows.<set>.jsonl is written")
    device: Literal["cpu", "cuda"] = "cpu"
    owner: str = Field("", description="whose answers of the base may be reused; empty: everybody's")


class EvaluateResult(_Message):
    """Reports the figures of base and adapter, and the checks."""

    metrics: dict[str, Any] = Field(
        description="{'base': {…}, 'tuned': {…}, 'sets': {name: {'rows': n, 'base': {…}, 'tuned': {…}}}}; each {…} has "
        "eval_loss, perplexity and, where asked, exact_match, exact_match_raw, of rows with tools tool_name, "
        "tool_arguments, tool_over and tool_under, rouge_1, rouge_2, rouge_l, bleu, tokens_per_s, and "
        "of preferences reward_accuracy, reward_margin, logp_accuracy, logps_wanted, logps_unwanted, tokens_wanted, "
        "tokens_unwanted, answer_tokens; "
        "beside base and tuned each rival that could be loaded has its own, by its side"
    )
    samples: list[dict[str, str]] = Field(description="set, prompt, reference, base, tuned: a few answers side by side")
    checks: list[dict[str, Any]] = Field(description="name, ok, detail: what was verified about the adapter")
    servable: dict[str, Any] = Field(description="vllm: bool, reason: why, in words")
    metrics_version: int = Field(1, description="of the measures' meaning (evaluation/measures.py)")
    unquantized_layers: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class GenerateRequest(_Request):
    """Answer prompts with an adapter (or with the bare base)."""

    op: Literal["generate"] = "generate"
    base: Base
    adapter_dir: str | None = None
    quantization: Literal["nf4", "none"] = "nf4"
    prompts: list[str]
    system: str | None = Field(None, description="a system text before each prompt, as the training rows had")
    max_new_tokens: int = 256
    temperature: float = 0.0
    device: Literal["cpu", "cuda"] = "cpu"


class GenerateResult(_Message):
    """Reports one answer a prompt."""

    answers: list[str]


class MergeRequest(_Request):
    """Fold an adapter into its unquantized base."""

    op: Literal["merge"] = "merge"
    base: Base
    adapter_dir: str
    dtype: Dtype = "bfloat16"
    out_dir: str = Field(description="the model folder that is written; it must not exist")
    device: Literal["cpu", "cuda"] = "cpu"


class MergeResult(_Message):
    """Reports a merged model that was read again and answers like base and adapter."""

    dtype: str
    logits_apart: float = Field(description="root mean square of the difference: merged against base with adapter")
    adapter_effect: float = Field(description="the same: base with adapter against base alone")
    warnings: list[str] = Field(default_factory=list)


Request = Annotated[
    PrepareRequest | IndexRequest | TrainRequest | EvaluateRequest | GenerateRequest | MergeRequest,
    Field(discriminator="op"),
]
_requests: TypeAdapter[Request] = TypeAdapter(Request)


def parse_request(line: str | bytes) -> Request:
    """Parse one request line into its model; raises pydantic's ValidationError where it is no request."""
    return _requests.validate_json(line)


def event_line(event: str, *, job: str, attempt: int, **fields: Any) -> bytes:
    """Write one event as a line of JSON; a number or text that the record cannot hold is replaced."""
    message = {"v": PROTOCOL_VERSION, "event": event, "job": job, "attempt": attempt, **fields}
    return json.dumps(storable(message), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
