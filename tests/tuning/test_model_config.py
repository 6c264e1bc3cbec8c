from celora.tuning.model_config import context_tokens, text_config


def test_the_context_is_found_under_each_of_its_names_and_nested():
    assert context_tokens({"max_position_embeddings": 512}) == 512
    assert context_tokens({"n_positions": 1024}) == 1024
    assert context_tokens({"text_config": {"max_position_embeddings": 77}}) == 77
    assert context_tokens({}) == 2048


def test_the_language_models_part_of_a_multimodal_configuration_wins():
    assert text_config({"hidden_size": 1, "text_config": {"hidden_size": 2}})["hidden_size"] == 2
    assert text_config({"hidden_size": 1, "text_config": None})["hidden_size"] == 1
