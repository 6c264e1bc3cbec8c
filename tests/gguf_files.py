"""Small ``.gguf`` files that transformers converts: one-layer llamas with vocabularies that are made here."""

import json


def greedy_vocabulary(texts, size=1500):
    """A BPE whose merges cross words, digits and spaces, since nothing was cut when it was trained.

    With such merges another rule gives other tokens in nearly every text.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, max_token_length=6, special_tokens=[]
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def llama_writer(path, count, hidden):
    """A writer with the header of a one-layer llama."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(count)
    return writer


def add_numbers(writer, count, hidden, *, dtype="float32", norms=None):
    """The tensors of that llama, drawn with a fixed seed; the file is then written and closed."""
    import numpy as np

    drawn = np.random.default_rng(0)
    shapes = {"token_embd": (count, hidden), "output": (count, hidden)}
    layers = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes |= {f"blk.0.{name}": (hidden, hidden) for name in layers}
    written = {}
    for name, shape in shapes.items():
        written[name] = drawn.standard_normal(shape).astype(np.float32).astype(dtype)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        written[name] = np.full(hidden, 1.0, dtype=np.float32) if norms is None else norms(drawn, hidden)
    for name, numbers in written.items():
        writer.add_tensor(f"{name}.weight", numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def write_sentencepiece(path, texts, size=600):
    """A one-layer llama with a SentencePiece vocabulary: bytes, letters, and pieces whose score is their order."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False, max_token_length=6))
    pieces = [piece for piece, _ in sorted(learned.get_vocab().items(), key=lambda item: item[1])]
    special, numbers = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*special, *numbers, *pieces]
    writer = llama_writer(path, len(tokens), 32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * (len(tokens) - len(pieces)) + [-float(place) for place in range(len(pieces))])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(pieces)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return add_numbers(writer, len(tokens), 32)


def write_gguf(path, vocabulary, pre, *, dtype="float32", norms=None, add_bos=False):
    """A one-layer llama with this vocabulary; its numbers are drawn with a fixed seed."""
    vocab, merges = vocabulary
    tokens = [*sorted(vocab, key=vocab.get), "<s>", "</s>"]
    count, hidden = len(tokens), 32
    writer = llama_writer(path, count, hidden)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (count - 2) + [3, 3])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(count - 2)
    writer.add_eos_token_id(count - 1)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    return add_numbers(writer, count, hidden, dtype=dtype, norms=norms)
