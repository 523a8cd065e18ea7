"""Tiny networks of transformers with tokenizers of their own, written as folders; nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from secateur.models import import_torchvision

__all__ = ["CORPUS", "causal", "gguf", "masked", "mixture", "tokenizer"]

CORPUS = [
    "the cat sat on the mat and the dog sat on the log",
    "a quick brown fox jumps over the lazy dog while the cat sleeps",
    "unbelievable stories were told in the kingdom of the northern winds",
    "she sells sea shells by the sea shore, 12 or 345 of them!",
    "pruning keeps what matters: weights, widths, words.",
]


def tokenizer(kind: str, size: int = 300) -> Any:
    """A fast tokenizer that was trained on the corpus: ``bytes``, ``wordpiece``, ``unigram`` or ``words``."""
    import_torchvision()  # transformers imports it, and would fail the way it does
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    model, trainer, before = {
        "bytes": (models.BPE(), trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False), pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "wordpiece": (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=special, show_progress=False), pre_tokenizers.BertPreTokenizer()),
        "unigram": (models.Unigram(), trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="[UNK]", show_progress=False),
            pre_tokenizers.Metaspace()),
        "words": (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(
            special_tokens=special, show_progress=False), pre_tokenizers.Whitespace()),
    }[kind]  # fmt: skip
    made = Tokenizer(model)
    made.pre_tokenizer = before
    if kind == "bytes":
        made.decoder = decoders.ByteLevel()
    made.train_from_iterator(CORPUS * 3, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, made.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", eos_token="[SEP]", bos_token="[CLS]",
    )  # fmt: skip


def _sizes(reader: Any, rows: int | None) -> dict[str, Any]:
    return {
        "vocab_size": rows or len(reader), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": reader.pad_token_id,
        "bos_token_id": reader.bos_token_id, "eos_token_id": reader.eos_token_id,
    }  # fmt: skip


def causal(folder: Path, kind: str = "bytes", *, tied: bool = True, rows: int | None = None) -> Any:
    """A Llama, saved with its tokenizer in ``folder``."""
    reader = tokenizer(kind)
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(**_sizes(reader, rows), num_key_value_heads=1, tie_word_embeddings=tied)).eval()
    made.save_pretrained(folder)
    reader.save_pretrained(folder)
    return made


def mixture(folder: Path) -> Any:
    """A Mixtral of four experts, saved with its tokenizer in ``folder``."""
    reader = tokenizer("bytes")
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 1}
    made = MixtralForCausalLM(MixtralConfig(**_sizes(reader, None), **experts)).eval()
    made.save_pretrained(folder)
    reader.save_pretrained(folder)
    return made


def masked(folder: Path, head: str = "BertForMaskedLM", kind: str = "wordpiece") -> Any:
    """A BERT, saved with its tokenizer in ``folder``."""
    reader = tokenizer(kind)
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, head)(transformers.BertConfig(**_sizes(reader, None))).eval()
    made.save_pretrained(folder)
    reader.save_pretrained(folder)
    return made


def gguf(path: Path, dense: Any) -> None:
    """Writes a network as llama.cpp has it: weights of 8 bits, rows of queries and keys in its order, its tokenizer."""
    import gguf
    import numpy as np

    config, eight = dense.config, gguf.GGMLQuantizationType.Q8_0
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_dimension_count(config.head_dim)
    file.add_vocab_size(config.vocab_size)
    letters = sorted(set("".join(CORPUS)) - {" "})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    tokens += [f"<{number}>" for number in range(config.vocab_size - len(tokens))]
    file.add_tokenizer_model("llama")
    file.add_token_list(tokens)
    file.add_token_scores([0.0] * len(tokens))
    file.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)])
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    for name, tensor in dense.state_dict().items():
        values, parts = tensor.numpy(), name.split(".")
        if parts[-2] in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if parts[-2] == "q_proj" else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        place = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        put = f"{place}{_GGUF[parts[-2]]}.weight"
        if values.ndim == 1:
            file.add_tensor(put, values)
        else:
            file.add_tensor(put, gguf.quantize(np.ascontiguousarray(values), eight), raw_dtype=eight)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


_GGUF = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "q_proj": "attn_q", "k_proj": "attn_k",
    "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
