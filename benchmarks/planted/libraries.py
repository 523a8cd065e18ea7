"""Small networks of transformers, timm and torchvision, with random weights."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from planted.networks import add, image, words

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def transformers() -> Any:
    from secateur.models._torchvision import import_torchvision

    import_torchvision()  # transformers imports torchvision, which may need the help that this gives
    import transformers

    return transformers


TEXT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 16}  # fmt: skip


@add("transformers BERT", words(mask=True), last=("*output.dense.*",), head="classifier.weight")
def bert() -> nn.Module:
    t = transformers()
    return t.BertForSequenceClassification(t.BertConfig(**TEXT))


@add("transformers BERT, eager", words(), last=("*output.dense.*",), head="classifier.weight")
def bert_eager() -> nn.Module:
    t = transformers()
    return t.BertForTokenClassification(t.BertConfig(**TEXT, attn_implementation="eager"))


@add("transformers GPT-2", words(), last=("*c_proj.*",))
def gpt2() -> nn.Module:
    t = transformers()
    sizes = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "n_inner": 48}
    return t.GPT2LMHeadModel(t.GPT2Config(**sizes, use_cache=False, bos_token_id=0, eos_token_id=0))


@add("transformers Llama", words(), last=("*o_proj.*", "*down_proj.*"), head="lm_head.weight")
def llama() -> nn.Module:
    t = transformers()
    return t.LlamaForCausalLM(t.LlamaConfig(**TEXT, num_key_value_heads=2, use_cache=False))


@add("transformers ViT", lambda g: {"pixel_values": image(3, 16)(g)[0]}, last=("*o_proj.*", "*fc2.*"),
     head="classifier.weight")  # fmt: skip
def vit() -> nn.Module:
    t = transformers()
    sizes = {k: v for k, v in TEXT.items() if k not in ("vocab_size", "max_position_embeddings")}
    return t.ViTForImageClassification(t.ViTConfig(**sizes, image_size=16, patch_size=4))


@add("transformers T5 encoder", words(), last=("*.o.*", "*wo.*"))
def t5() -> nn.Module:
    t = transformers()
    sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return t.T5EncoderModel(t.T5Config(**sizes, use_cache=False))


def timm_model(name: str, **options: Any) -> nn.Module:
    from secateur.models._torchvision import import_torchvision

    import_torchvision()
    import timm

    return timm.create_model(name, pretrained=False, num_classes=5, **options)


@add("timm ViT", image(3, 16), last=("*attn.proj.*", "*fc2.*"), head="head.weight", scale="*.ls?.gamma")
def timm_vit() -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 32, "num_heads": 4, "mlp_ratio": 2}
    return timm_model("vit_tiny_patch16_224", **sizes, init_values=1.0, qk_norm=True)


@add("timm Swin", image(3, 16), last=("*attn.proj.*", "*fc2.*"), head="head.fc.weight")
def timm_swin() -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4)}
    return timm_model("swin_tiny_patch4_window7_224", **sizes)


@add("timm ConvNeXt", image(3, 32), last=("*fc2.*",), head="head.fc.weight", scale="*gamma")
def timm_convnext() -> nn.Module:
    return timm_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 12, 16, 16))


@add("torchvision ViT", image(3, 16), last=("*out_proj.*", "*mlp.3.*"), head="heads.head.weight")
def torchvision_vit() -> nn.Module:
    from secateur.models._torchvision import import_torchvision

    import_torchvision()
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(16, 4, 2, 4, 32, 48, num_classes=5)


@add("torchvision Swin", image(3, 16), last=("*attn.proj.*", "*mlp.3.*"), head="head.weight")
def torchvision_swin() -> nn.Module:
    from secateur.models._torchvision import import_torchvision

    import_torchvision()
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([2, 2], 16, [2, 1], [2, 4], [4, 4], num_classes=5, stochastic_depth_prob=0.0)
