"""Names of settings in other programs: every one is answered with a field that exists, or with what to do."""

import pytest

from celora.errors import SettingsError
from celora.models.spec import JobSpec, parse_spec
from celora.tuning.synonyms import ADVICE, SYNONYMS


def refusal(**fields):
    with pytest.raises(SettingsError) as caught:
        parse_spec({"base_model": "base", "dataset": "rows.jsonl", **fields})
    return caught.value.message


def test_every_synonym_leads_to_a_field_that_exists():
    assert set(SYNONYMS.values()) <= set(JobSpec.model_fields)
    assert not {*SYNONYMS, *ADVICE} & set(JobSpec.model_fields)
    assert not set(SYNONYMS) & set(ADVICE)


AXOLOTL = """base_model datasets val_set_size sequence_len sample_packing lora_r lora_alpha lora_dropout
    lora_target_linear lora_target_modules num_epochs micro_batch_size gradient_accumulation_steps lr_scheduler
    optimizer learning_rate warmup_steps train_on_inputs bf16 load_in_4bit adapter output_dir evals_per_epoch
    saves_per_epoch logging_steps
    gradient_checkpointing peft_use_dora wandb_project chat_template seed weight_decay max_grad_norm"""
LLAMA_FACTORY = """model_name_or_path stage do_train finetuning_type lora_target lora_rank dataset template cutoff_len
    output_dir logging_steps save_steps overwrite_output_dir per_device_train_batch_size gradient_accumulation_steps
    learning_rate num_train_epochs lr_scheduler_type warmup_ratio bf16 val_size eval_strategy eval_steps
    quantization_bit quantization_method neat_packing train_on_prompt mask_history use_dora report_to
    resume_from_checkpoint trust_remote_code"""
OPENAI = "model training_file validation_file n_epochs batch_size learning_rate_multiplier suffix seed hyperparameters"


@pytest.mark.parametrize("words", [AXOLOTL, LLAMA_FACTORY, OPENAI])
def test_every_word_of_another_programs_settings_is_answered_with_our_own(words):
    """The names are those of the programs' own example files."""
    for name in words.split():
        if name not in JobSpec.model_fields:
            said = refusal(**{name: 1})
            assert f"{name} is no field; did you mean " in said or f"{name} is no field: " in said


def test_a_word_of_another_program_is_known_in_any_spelling():
    assert "Cutoff-Len is no field; did you mean max_length?" in refusal(**{"Cutoff-Len": 1})
    assert "bf16 is no field: leave it away: the device decides" in refusal(bf16=True)
