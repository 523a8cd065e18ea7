"""Tiny networks of transformers with tokenizers of their own, written as folders; nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from secateur.models import import_torchvision

__all__ = ["CORPUS", "causal", "masked", "mixture", "tokenizer"]

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
