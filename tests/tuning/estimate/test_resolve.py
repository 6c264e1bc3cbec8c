import pytest

from celora.tuning.estimate import resolve
from celora.tuning.estimate.memory import GIB
from celora.tuning.estimate.resolve import resolve_recipe
from celora.tuning.recipe import Recipe, planned_steps

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
PARAMETERS_8B = 8_030_261_248
SMOLLM = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
PARAMETERS_135M = 134_515_008


def resolved(*, rows=1000, device="cuda", memory_gib=80, small=False, longest=512, **fields):
    return resolve_recipe(
        Recipe(**fields),
        parameters=PARAMETERS_135M if small else PARAMETERS_8B,
        model_config=SMOLLM if small else LLAMA_8B,
        train_rows=rows,
        train_tokens=rows * 200,
        max_length=2048,
        device=device,
        device_memory_bytes=int(memory_gib * GIB),
        compute_dtype="float32" if device == "cpu" else "bfloat16",
        longest_row_tokens=longest,
    )


@pytest.mark.parametrize(
    ("parameters", "quantization", "rate"),
    [
        (260_000, "nf4", 1e-3),
        (PARAMETERS_135M, "none", 1e-3),
        (1_000_000_000, "nf4", 3.8e-4),
        (1_000_000_000, "none", 2.5e-4),
        (PARAMETERS_8B, "nf4", 2e-4),
        (70_000_000_000, "none", 1e-4),
    ],
)
def test_the_learning_rate_follows_size_and_quantization_and_says_so(parameters, quantization, rate):
    found, rule = resolve._learning_rate(quantization, parameters)
    assert found == pytest.approx(rate)
    assert rule.startswith(f"{rate:g}: ")
    assert f"{parameters / 1e6:,.1f} M parameters" in rule


def test_a_factor_multiplies_the_rate_that_auto_chooses_and_no_other():
    chosen = resolved()
    half = resolved(learning_rate_multiplier=0.5)
    assert half.learning_rate == pytest.approx(chosen.learning_rate / 2)
    assert "times 0.5" in half.rules["learning_rate"]
    assert resolved(learning_rate_multiplier=1000).learning_rate == resolve.HIGHEST_LEARNING_RATE
    assert resolved(learning_rate=1e-4, learning_rate_multiplier=0.5).learning_rate == 1e-4


def test_between_the_two_ends_the_rate_only_falls():
    rates = [resolve._learning_rate("nf4", int(1e8 * 1.1**power))[0] for power in range(45)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (1e-3, 2e-4)


def test_every_open_setting_gets_a_value_and_a_rule_and_no_set_one_does():
    recipe = resolved()
    open_settings = {
        "learning_rate",
        "max_length",
        "optimizer",
        "micro_batch",
        "gradient_checkpointing",
        "effective_batch",
        "compute_dtype",
    }
    assert set(recipe.rules) == open_settings
    assert (recipe.optimizer, recipe.effective_batch, recipe.learning_rate) == ("paged_adamw_8bit", 16, 2e-4)
    closed = resolved(
        learning_rate=1e-4,
        max_length=2048,
        optimizer="adamw",
        micro_batch=2,
        gradient_checkpointing=False,
        effective_batch=8,
    )
    assert set(closed.rules) == {"compute_dtype"}
    assert (closed.micro_batch, closed.accumulation, closed.gradient_checkpointing) == (2, 4, False)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch", "steps"),
    [(10_000, 3, 16, 1875), (160, 3, 16, 30), (100, 3, 8, 39), (40, 3, 4, 30), (10, 3, 1, 30), (3, 1, 1, 3)],
)
def test_a_tiny_dataset_takes_smaller_batches_so_that_about_thirty_steps_remain(rows, epochs, batch, steps):
    recipe = resolved(rows=rows, epochs=epochs)
    assert recipe.effective_batch == recipe.micro_batch * recipe.accumulation == batch
    assert planned_steps(rows, recipe) == steps


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"micro_batch": 6}, (6, 2, 12)),
        ({"accumulation": 4}, (4, 4, 16)),
        ({"effective_batch": 12, "accumulation": 3}, (4, 3, 12)),
        ({"effective_batch": 7}, (7, 1, 7)),
        ({"micro_batch": 32}, (32, 1, 32)),
        ({"micro_batch": 2, "accumulation": 5}, (2, 5, 10)),
        ({"max_steps": 5}, (16, 1, 16)),
    ],
)
def test_what_the_caller_set_is_kept_and_the_rest_divides(fields, expected):
    recipe = resolved(**fields, memory_gib=1000)
    assert (recipe.micro_batch, recipe.accumulation, recipe.effective_batch) == expected


def test_on_a_cpu_the_micro_batch_stays_small_and_divides_the_effective_batch():
    recipe = resolved(device="cpu", memory_gib=64, small=True, longest=128)
    assert (recipe.micro_batch, recipe.accumulation, recipe.optimizer) == (4, 4, "adamw")
    assert recipe.learning_rate == 1e-3
    assert "at most 4 on a CPU" in recipe.rules["micro_batch"]
    assert resolved(device="cpu", memory_gib=64, small=True, effective_batch=6).micro_batch == 3


def test_less_memory_means_smaller_micro_batches_then_checkpointing_then_a_rule_that_says_it_does_not_fit():
    found = [resolved(memory_gib=size, longest=2048) for size in (400, 80, 24, 6)]
    assert [recipe.effective_batch for recipe in found] == [16] * 4
    assert [recipe.gradient_checkpointing for recipe in found] == [False, False, True, True]
    assert found[0].micro_batch > found[1].micro_batch >= 1
    assert found[3].micro_batch == 1
    assert "does not fit" not in found[2].rules["micro_batch"]
    assert "does not fit" in found[3].rules["micro_batch"]


def test_rows_of_unknown_length_count_four_times_the_mean_and_packed_ones_their_whole_length():
    assert "rows of 800 tokens" in resolved(longest=None).rules["micro_batch"]
    assert "rows of 2048 tokens" in resolved(longest=None, packing=True).rules["micro_batch"]
