"""Public networks of many libraries, from their configurations with random weights, cut to half.

Run: python benchmarks/public_models.py [--only SUBSTRING] [--tool secateur|torch_pruning] [--again]

Each network runs in a process of its own, one thread. Widths and depths are small (a few layers), shapes of the code
are those of the library. Every network is cut whole and within, with the library's initial weights and with weights of
standard deviation 0.2. Asked of the result: is it proven exact in double precision; is it still of its class; does it
take another size, and is it right there (held up to the same plan, cut and proven at that size); does a training step
reach the same share of its parameters as of the dense network's; the library's own save and load; ``generate``.
Rows are written as they come. Writes results/public_models.json and docs/alive.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.models._torchvision import import_torchvision

DOCS = Path(__file__).resolve().parents[1] / "docs/alive.md"
LIMIT_S = 600
RATIO = 0.5
SETTINGS = [(granularity, std) for std in (None, 0.2) for granularity in ("whole", "within")]

Build = Callable[[], tuple[nn.Module, Any, Any]]
"""The network, inputs, and inputs of other sizes (``None`` where it takes no others)."""

NETWORKS: dict[str, Build] = {}


def entry(name: str) -> Callable[[Build], Build]:
    """Adds a network under ``library:name``."""

    def add(build: Build) -> Build:
        NETWORKS[name] = build
        return build

    return add


# ------------------------------------------------------------------------------------------------- transformers


def tokens(batch: int, length: int, most: int = 99) -> Tensor:
    return torch.randint(3, most, (batch, length))


def words(batch: int = 2, length: int = 9) -> dict[str, Tensor]:
    return {"input_ids": tokens(batch, length), "attention_mask": torch.ones(batch, length, dtype=torch.long)}


def pixels(batch: int = 2, size: int = 32, channels: int = 3) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, channels, size, size)}


def transformer(config: str, model: str, inputs: Callable[..., Any], other: Any = None, /, **options: Any) -> None:
    """A class of transformers; ``inputs()`` are what it is called with, ``other`` those of another size."""

    def build() -> tuple[nn.Module, Any, Any]:
        library = importlib.import_module("transformers")
        made = getattr(library, config)(**options)
        return getattr(library, model)(made), inputs(), other() if callable(other) else other

    NETWORKS[f"transformers:{model}"] = build


WIDE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}
ROPE = {
    **WIDE,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def longer_words() -> Any:
    return words(3, 13)


def larger_batch() -> Any:
    return pixels(3)


for _config, _model in (
    ("BertConfig", "BertForSequenceClassification"), ("RobertaConfig", "RobertaForMaskedLM"),
    ("ElectraConfig", "ElectraModel"), ("CamembertConfig", "CamembertForTokenClassification"),
    ("MPNetConfig", "MPNetModel"), ("ConvBertConfig", "ConvBertModel"), ("XLMRobertaConfig", "XLMRobertaModel"),
    ("ErnieConfig", "ErnieModel"), ("RoFormerConfig", "RoFormerModel"), ("SqueezeBertConfig", "SqueezeBertModel"),
    ("DebertaV2Config", "DebertaV2ForSequenceClassification"), ("NomicBertConfig", "NomicBertModel"),
    ("ModernBertConfig", "ModernBertModel"),
):  # fmt: skip
    _more = {"embedding_size": 64} if _config in ("ElectraConfig", "SqueezeBertConfig", "RoFormerConfig") else {}
    _more |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2} if (
        _config == "ModernBertConfig") else {}  # fmt: skip
    transformer(_config, _model, words, longer_words, **WIDE, **_more)
transformer("DistilBertConfig", "DistilBertModel", words, longer_words, vocab_size=100, dim=64, n_layers=2, n_heads=4,
            hidden_dim=128)  # fmt: skip
transformer("AlbertConfig", "AlbertModel", words, longer_words, **WIDE, embedding_size=32)
transformer("GPT2Config", "GPT2LMHeadModel", words, longer_words, vocab_size=100, n_embd=64, n_layer=2, n_head=4,
            n_positions=64, bos_token_id=1, eos_token_id=2)  # fmt: skip
transformer("GPTNeoXConfig", "GPTNeoXForCausalLM", words, longer_words, **WIDE, max_position_embeddings=64,
            bos_token_id=1, eos_token_id=2)  # fmt: skip
transformer("GPTJConfig", "GPTJForCausalLM", words, longer_words, vocab_size=100, n_embd=64, n_layer=2, n_head=4,
            rotary_dim=8, n_positions=64, bos_token_id=1, eos_token_id=2)  # fmt: skip
transformer("OPTConfig", "OPTForCausalLM", words, longer_words, vocab_size=100, hidden_size=64, num_hidden_layers=2,
            num_attention_heads=4, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=64)  # fmt: skip
transformer("BloomConfig", "BloomForCausalLM", words, longer_words, vocab_size=100, hidden_size=64, n_layer=2,
            n_head=4, bos_token_id=1, eos_token_id=2)  # fmt: skip
for _config, _model in (
    ("LlamaConfig", "LlamaForCausalLM"), ("Qwen2Config", "Qwen2ForCausalLM"), ("Qwen3Config", "Qwen3ForCausalLM"),
    ("MistralConfig", "MistralForCausalLM"), ("GemmaConfig", "GemmaForCausalLM"), ("Gemma2Config", "Gemma2ForCausalLM"),
    ("Phi3Config", "Phi3ForCausalLM"), ("GraniteConfig", "GraniteForCausalLM"), ("CohereConfig", "CohereForCausalLM"),
    ("Olmo2Config", "Olmo2ForCausalLM"), ("StableLmConfig", "StableLmForCausalLM"), ("PhiConfig", "PhiForCausalLM"),
    ("Starcoder2Config", "Starcoder2ForCausalLM"), ("SmolLM3Config", "SmolLM3ForCausalLM"),
    ("FalconConfig", "FalconForCausalLM"), ("MixtralConfig", "MixtralForCausalLM"),
    ("Qwen2MoeConfig", "Qwen2MoeForCausalLM"),
):  # fmt: skip
    _more = {"head_dim": 16} if "Gemma" in _config or _config == "Qwen3Config" else {}
    _more |= {"num_local_experts": 4} if _config == "MixtralConfig" else {}
    _more |= {"num_experts": 4, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64} if (
        _config == "Qwen2MoeConfig") else {}  # fmt: skip
    transformer(_config, _model, words, longer_words, **ROPE, **_more)
transformer("T5Config", "T5ForConditionalGeneration", lambda: {**words(), "decoder_input_ids": tokens(2, 5)},
            lambda: {**words(3, 12), "decoder_input_ids": tokens(3, 7)}, vocab_size=100, d_model=64, d_kv=16, d_ff=128,
            num_layers=2, num_heads=4, decoder_start_token_id=0)  # fmt: skip
transformer("BartConfig", "BartForConditionalGeneration", lambda: {**words(), "decoder_input_ids": tokens(2, 5)},
            lambda: {**words(3, 12), "decoder_input_ids": tokens(3, 7)}, vocab_size=100, d_model=64, encoder_layers=2,
            decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
            decoder_ffn_dim=128, max_position_embeddings=64)  # fmt: skip
transformer("WhisperConfig", "WhisperForConditionalGeneration",
            lambda: {"input_features": torch.randn(1, 20, 60), "decoder_input_ids": tokens(1, 5)},
            lambda: {"input_features": torch.randn(2, 20, 60), "decoder_input_ids": tokens(2, 7)}, vocab_size=100,
            d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=20, max_source_positions=30, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=[],
            begin_suppress_tokens=[])  # fmt: skip
transformer("Wav2Vec2Config", "Wav2Vec2ForCTC", lambda: {"input_values": torch.randn(1, 4000)},
            lambda: {"input_values": torch.randn(2, 5000)}, hidden_size=64, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=128, vocab_size=30, conv_dim=(32,) * 7,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)  # fmt: skip
transformer("HubertConfig", "HubertModel", lambda: {"input_values": torch.randn(1, 4000)},
            lambda: {"input_values": torch.randn(2, 5000)}, hidden_size=64, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=128, conv_dim=(32,) * 7, num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4)  # fmt: skip
SEEN = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 32,
        "patch_size": 8}  # fmt: skip
for _config, _model in (
    ("ViTConfig", "ViTForImageClassification"), ("DeiTConfig", "DeiTModel"),
    ("BeitConfig", "BeitForImageClassification"),
    ("Dinov2Config", "Dinov2Model"), ("ViTMAEConfig", "ViTMAEModel"), ("YolosConfig", "YolosModel"),
    ("SiglipVisionConfig", "SiglipVisionModel"), ("CLIPVisionConfig", "CLIPVisionModel"),
):  # fmt: skip
    _more = {"image_size": [32, 32], "num_detection_tokens": 4} if _config == "YolosConfig" else {}
    transformer(_config, _model, pixels, larger_batch, **{**SEEN, **_more})
transformer("CLIPConfig", "CLIPModel", lambda: {**words(), **pixels()}, lambda: {**words(3, 12), **pixels(3)},
            text_config={**WIDE, "max_position_embeddings": 32, "eos_token_id": 2}, vision_config=dict(SEEN),
            projection_dim=32)  # fmt: skip
transformer("SwinConfig", "SwinForImageClassification", pixels, larger_batch, image_size=32, patch_size=2,
            embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)  # fmt: skip
transformer("SegformerConfig", "SegformerForSemanticSegmentation", lambda: pixels(2, 64), lambda: pixels(3, 96),
            depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], num_attention_heads=[1, 2, 3, 4],
            decoder_hidden_size=32)  # fmt: skip
transformer("ConvNextConfig", "ConvNextForImageClassification", lambda: pixels(2, 64), lambda: pixels(3, 96),
            hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1])  # fmt: skip
transformer("ResNetConfig", "ResNetForImageClassification", lambda: pixels(2, 64), lambda: pixels(3, 96),
            embedding_size=16, hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 2, 1])  # fmt: skip
transformer("DPTConfig", "DPTForDepthEstimation", lambda: pixels(1, 32), lambda: pixels(2, 32), **SEEN,
            neck_hidden_sizes=[16, 32, 48, 64], fusion_hidden_size=32, backbone_out_indices=[0, 1, 1, 1],
            is_hybrid=False)  # fmt: skip
transformer("MobileViTConfig", "MobileViTForImageClassification", lambda: pixels(2, 64), lambda: pixels(3, 96),
            hidden_sizes=[24, 32, 40], neck_hidden_sizes=[16, 16, 24, 32, 40, 48, 64], num_attention_heads=4
            )  # fmt: skip
transformer("ASTConfig", "ASTModel", lambda: {"input_values": torch.randn(2, 64, 16)}, lambda: {"input_values":
            torch.randn(3, 64, 16)}, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            patch_size=8, frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=16)  # fmt: skip


# --------------------------------------------------------------------------------------------- other libraries


@entry("diffusers:UNet2DModel")
def _unet2d() -> tuple[nn.Module, Any, Any]:
    from diffusers import UNet2DModel

    net = UNet2DModel(sample_size=16, in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1,
                      down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                      up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                      norm_num_groups=8, attention_head_dim=8)  # fmt: skip
    return net, {"sample": torch.randn(2, 3, 16, 16), "timestep": torch.tensor(3)}, {
        "sample": torch.randn(3, 3, 32, 32), "timestep": torch.tensor(3)}  # fmt: skip


@entry("diffusers:UNet2DConditionModel")
def _unet2d_condition() -> tuple[nn.Module, Any, Any]:
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32,
                               down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=8,
                               up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=8)  # fmt: skip

    def given(batch: int, size: int, length: int) -> Any:
        return {"sample": torch.randn(batch, 4, size, size), "timestep": torch.tensor(3),
                "encoder_hidden_states": torch.randn(batch, length, 32)}  # fmt: skip

    return net, given(2, 16, 7), given(3, 32, 9)


@entry("diffusers:AutoencoderKL")
def _vae() -> tuple[nn.Module, Any, Any]:
    from diffusers import AutoencoderKL

    net = AutoencoderKL(block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=8,
                        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32)  # fmt: skip
    return net, torch.randn(1, 3, 32, 32), torch.randn(2, 3, 48, 48)


@entry("diffusers:DiTTransformer2DModel")
def _dit() -> tuple[nn.Module, Any, Any]:
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=16, num_layers=2, sample_size=8,
                                norm_num_groups=8)  # fmt: skip

    def given(batch: int) -> Any:
        return {"hidden_states": torch.randn(batch, 4, 8, 8), "timestep": torch.full((batch,), 3),
                "class_labels": torch.ones(batch, dtype=torch.long)}  # fmt: skip

    return net, given(2), given(3)


@entry("diffusers:SD3Transformer2DModel")
def _sd3() -> tuple[nn.Module, Any, Any]:
    from diffusers import SD3Transformer2DModel

    net = SD3Transformer2DModel(sample_size=8, num_layers=2, attention_head_dim=16, num_attention_heads=4,
                                joint_attention_dim=32, caption_projection_dim=64, pooled_projection_dim=48,
                                in_channels=4, out_channels=4, pos_embed_max_size=16)  # fmt: skip

    def given(batch: int, length: int) -> Any:
        return {"hidden_states": torch.randn(batch, 4, 8, 8), "encoder_hidden_states": torch.randn(batch, length, 32),
                "pooled_projections": torch.randn(batch, 48), "timestep": torch.full((batch,), 3)}  # fmt: skip

    return net, given(2, 7), given(3, 9)


def yolo(name: str) -> None:
    """A network of Ultralytics, from its own file of sizes."""

    def build() -> tuple[nn.Module, Any, Any]:
        from ultralytics import YOLO

        return YOLO(f"{name}.yaml", verbose=False).model, torch.randn(1, 3, 64, 64), torch.randn(2, 3, 96, 128)

    NETWORKS[f"ultralytics:{name}"] = build


for _name in ("yolov5n", "yolov8n", "yolov8n-seg", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n"):
    yolo(_name)


def segmenter(kind: str, encoder: str) -> None:
    """A network of segmentation_models_pytorch."""

    def build() -> tuple[nn.Module, Any, Any]:
        import segmentation_models_pytorch as smp

        net = getattr(smp, kind)(encoder, encoder_weights=None, classes=3)
        return net, torch.randn(2, 3, 64, 64), torch.randn(3, 3, 96, 128)

    NETWORKS[f"segmentation_models_pytorch:{kind}-{encoder}"] = build


for _kind, _encoder in (("Unet", "resnet18"), ("UnetPlusPlus", "mobilenet_v2"), ("FPN", "efficientnet-b0"),
                        ("DeepLabV3Plus", "resnet18"), ("MAnet", "resnet18"), ("Segformer", "mit_b0"),
                        ("Linknet", "resnet18")):  # fmt: skip
    segmenter(_kind, _encoder)


@entry("monai:UNet")
def _monai_unet() -> tuple[nn.Module, Any, Any]:
    from monai.networks.nets import UNet

    net = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2), num_res_units=1)
    return net, torch.randn(1, 1, 16, 16, 16), torch.randn(2, 1, 24, 16, 32)


@entry("monai:UNETR")
def _unetr() -> tuple[nn.Module, Any, Any]:
    from monai.networks.nets import UNETR

    net = UNETR(in_channels=1, out_channels=2, img_size=32, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4)
    return net, torch.randn(1, 1, 32, 32, 32), torch.randn(2, 1, 32, 32, 32)


@entry("monai:SwinUNETR")
def _swin_unetr() -> tuple[nn.Module, Any, Any]:
    from monai.networks.nets import SwinUNETR

    net = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4))
    return net, torch.randn(1, 1, 32, 32, 32), torch.randn(1, 1, 64, 32, 32)


@entry("monai:SegResNet")
def _segresnet() -> tuple[nn.Module, Any, Any]:
    from monai.networks.nets import SegResNet

    net = SegResNet(spatial_dims=2, init_filters=8, in_channels=1, out_channels=2)
    return net, torch.randn(1, 1, 32, 32), torch.randn(2, 1, 64, 48)


def open_clip_tower(name: str) -> None:
    def build() -> tuple[nn.Module, Any, Any]:
        from open_clip.model import CLIP

        vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 16}
        if name == "ResNet":
            vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
        text = {"context_length": 12, "vocab_size": 100, "width": 64, "heads": 4, "layers": 2}
        net, size = CLIP(64, vision, text), vision["image_size"]
        return net, (torch.randn(2, 3, size, size), tokens(2, 12)), (torch.randn(3, 3, size, size), tokens(3, 12))

    NETWORKS[f"open_clip:{name}"] = build


for _name in ("ViT", "ResNet"):
    open_clip_tower(_name)


def graph_network(name: str) -> None:
    def build() -> tuple[nn.Module, Any, Any]:
        from torch_geometric import nn as gnn

        net = getattr(gnn.models, name)(16, 32, num_layers=2, out_channels=4)

        def given(nodes: int, edges: int) -> Any:
            return {"x": torch.randn(nodes, 16), "edge_index": torch.randint(0, nodes, (2, edges))}

        return net, given(10, 30), given(17, 41)

    NETWORKS[f"torch_geometric:{name}"] = build


for _name in ("GCN", "GraphSAGE", "GIN", "GAT"):
    graph_network(_name)


# ------------------------------------------------------------------------------------------------------ outcomes


def strengthened(model: nn.Module, std: float | None) -> nn.Module:
    """Weights of a standard deviation, and batch-norm statistics that are not all alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in model.parameters() if std is not None else ():
            if parameter.ndim > 1:
                parameter.normal_(0, std, generator=generator)
    return model.eval()


def called(model: nn.Module, inputs: Any) -> list[Tensor]:
    torch.manual_seed(0)
    args, kwargs = (
        ((), inputs) if isinstance(inputs, Mapping) else (inputs if isinstance(inputs, tuple) else (inputs,), {})
    )
    found = model(*args, **kwargs)
    held = vars(found) if hasattr(found, "__dataclass_fields__") else found
    return [t for t in pytree.tree_leaves(dict(held) if isinstance(held, Mapping) else held) if isinstance(t, Tensor)]


def attempt(check: Callable[[], Any]) -> str:
    """``yes``, or why not."""
    try:
        found = check()
    except Exception as error:
        words = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {words[0][:200]}"
    return "yes" if found is None or found is True else str(found)


def another_size(model: nn.Module, pruned: Any, other: Any) -> str:
    """Whether the result is right at another size: as the same plan gives, cut and proven there."""
    import secateur

    if other is None or attempt(lambda: called(model, other) and None) != "yes":
        return "the dense network does not"
    at = secateur.apply(model, pruned.plan, other)
    with torch.no_grad():
        ours, theirs = called(pruned.model.double(), _double(other)), called(at.model.double(), _double(other))
    pruned.model.float()
    worst = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in zip(ours, theirs, strict=True))
    return "yes" if worst < 1e-6 else f"differs by {worst:.1e}"


def _double(inputs: Any) -> Any:
    return pytree.tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, inputs)


def trained(model: nn.Module, inputs: Any) -> float:
    """Share of the parameters that a training step reaches."""
    model.zero_grad()
    model.train()
    loss = sum(t.float().pow(2).mean() for t in called(model, inputs) if t.requires_grad)
    assert isinstance(loss, Tensor)
    loss.backward()
    model.eval()
    with_gradient = [p.grad is not None for p in model.parameters() if p.requires_grad]
    return sum(with_gradient) / max(1, len(with_gradient))


def saved(model: nn.Module, inputs: Any) -> Any:
    """The library's own save and load, and the same results."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)  # type: ignore[operator]
        again = type(model).from_pretrained(folder).eval()  # type: ignore[attr-defined]
        pairs = zip(called(again, inputs), called(model, inputs), strict=True)
        worst = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in pairs)
    return True if worst < 1e-5 else f"differs by {worst:.1e}"


def generated(model: nn.Module, inputs: Any) -> Any:
    ids = {k: v for k, v in inputs.items() if not k.startswith("decoder")}
    return model.generate(**ids, max_new_tokens=4, do_sample=False).shape[0] > 0  # type: ignore[operator]


def run_secateur(name: str) -> list[dict[str, Any]]:
    import secateur

    rows = []
    for granularity, std in SETTINGS:
        torch.manual_seed(0)
        model, inputs, other = NETWORKS[name]()
        strengthened(model, std)
        row: dict[str, Any] = {"granularity": granularity, "std": std}
        start = time.perf_counter()
        try:
            pruned = secateur.prune(model, inputs, ratio=RATIO, granularity=granularity)
        except Exception as error:
            words = str(error).strip().splitlines() or [""]
            rows.append({**row, "outcome": "refused" if isinstance(error, secateur.SecateurError) else "crashed",
                         "why": f"{type(error).__name__}: {words[0][:300]}"})  # fmt: skip
            continue
        row |= {"outcome": "cut", "seconds": time.perf_counter() - start, "backend": pruned.backend,
                "islands": len(pruned.plan.islands), "left": pruned.after.params / pruned.before.params,
                "notes": list(pruned.notes), "lost": list(pruned.lost),
                "pinned": [str(u) for u in pruned.unsupported][:8]}  # fmt: skip
        if pruned.verification is not None:
            row |= {"difference": pruned.verification.max_relative_error, "proven": pruned.verification.proven}
        row["class"] = type(pruned.model) is type(model)
        row["other size"] = attempt(lambda: another_size(model, pruned, other))  # noqa: B023
        dense = attempt(lambda: f"{trained(model, inputs):.4f}")  # noqa: B023
        row["trains"] = attempt(lambda: f"{trained(pruned.model, inputs):.4f}"), dense  # noqa: B023
        if hasattr(model, "save_pretrained"):
            row["saves"] = attempt(lambda: saved(pruned.model, inputs))  # noqa: B023
        if getattr(model, "can_generate", bool)() and isinstance(inputs, Mapping):
            row["generates"] = attempt(lambda: generated(pruned.model, inputs))  # noqa: B023
        rows.append(row)
    return rows


def run_torch_pruning(name: str) -> list[dict[str, Any]]:
    """Without recipes per network: the last layer is ignored, nothing else is told."""
    import torch_pruning

    torch.manual_seed(0)
    model, inputs, _ = NETWORKS[name]()
    strengthened(model, None)
    dense, want = sum(p.numel() for p in model.parameters()), [t.shape for t in called(model, inputs)]
    heads = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    try:
        pruner = torch_pruning.pruner.MetaPruner(
            model, inputs, torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=RATIO,
            ignored_layers=heads[-1:])  # fmt: skip
        pruner.step()
        shapes = [t.shape for t in called(model, inputs)]
    except Exception as error:
        return [{"outcome": "error", "why": f"{type(error).__name__}: {str(error)[:200]}"}]
    left = sum(p.numel() for p in model.parameters()) / dense
    return [
        {
            "outcome": "runs" if shapes == want and left < 1 else "nothing cut" if left == 1 else "other shapes",
            "left": left,
        }
    ]


RUNS = {"secateur": run_secateur, "torch_pruning": run_torch_pruning}


def in_a_process(tool: str, name: str) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--one", tool, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return [{"outcome": "crashed", "why": f"over {LIMIT_S} s"}]
    lines = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    if done.returncode or not lines:
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["killed"])[-1]
        return [{"outcome": "missing" if "No module" in last else "crashed", "why": last[:300]}]
    return json.loads(lines[-1])


def one(tool: str, name: str) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    print(json.dumps(RUNS[tool](name), default=str))


# -------------------------------------------------------------------------------------------------------- tables


def best(several: list[dict[str, Any]], key: str) -> str:
    found = dict.fromkeys(str(r.get(key, "–")) for r in several)
    return ", ".join("yes" if f == "yes" else f[:60] for f in found)


def render(rows: list[dict[str, Any]]) -> str:
    done = [r for r in rows if "secateur" in r and not any(x["outcome"] == "missing" for x in r["secateur"])]
    results = [x for r in done for x in r["secateur"]]
    cut = [x for x in results if x["outcome"] == "cut"]
    module = [x for x in cut if x["backend"] == "module"]
    fits = [x for x in module if not x["other size"].startswith("the dense")]
    right = sum(x["other size"] == "yes" for x in fits)
    peers = [r["torch_pruning"][0] for r in rows if "torch_pruning" in r]
    beside = f"{sum(p['outcome'] == 'runs' for p in peers)} of {len(peers)}"
    lines = [
        f"- networks: {len(done)}, each cut {len(SETTINGS)} times: whole and within, weights as initialised and of "
        f"standard deviation 0.2; results: {len(results)}",
        f"- cut and exact in double precision: {len(cut)} of {len(results)}",
        f"- still of their class: {len(module)} of {len(cut)}",
        f"- of these, right at another size where the dense network takes one: {right} of {len(fits)}",
    ]
    lines += [f"- Torch-Pruning (once each, not verified): runs with the same shapes {beside}"] * bool(peers)
    head = ["network", "cut", "back end", "left", "another size", "trains", "saves", "generates", "Torch-Pruning"]
    return "\n".join(lines) + "\n\n" + table(head, map(_row, rows))


def _row(row: dict[str, Any]) -> list[Any]:
    several = row.get("secateur", [])
    cut = [x for x in several if x["outcome"] == "cut"]
    left = sorted(x["left"] for x in cut)
    trains = ["yes" if x["trains"][0] == x["trains"][1] else f"{x['trains'][0][:40]}" for x in cut]
    peer = row.get("torch_pruning", [{}])[0]
    refused = next((x["why"] for x in several if x["outcome"] != "cut"), "")
    return [row["network"], f"{len(cut)} of {len(several)}" + (f": {refused[:80]}" if refused else ""),
            ", ".join(dict.fromkeys(x["backend"] for x in cut)), f"{left[0]:.2f}–{left[-1]:.2f}" if left else "–",
            best(cut, "other size"), ", ".join(dict.fromkeys(trains)), ", ".join(dict.fromkeys(map(_saves, cut))),
            best(cut, "generates"),
            peer.get("outcome", "–")]  # fmt: skip


def _saves(row: dict[str, Any]) -> str:
    """``said`` where a note says that the library's own files cannot describe the result."""
    said = any(note.startswith("its configuration does not describe") for note in row["notes"])
    return "said why not" if said and row.get("saves") != "yes" else str(row.get("saves", "–"))[:60]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--tool", choices=RUNS, action="append")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one", nargs=2)
    given = parser.parse_args()
    import_torchvision()
    if given.one:
        one(*given.one)
        return
    rows = {r["network"]: r for r in read("public_models")}
    todo = [(tool, n) for n in NETWORKS if given.only in n for tool in given.tool or RUNS
            if given.again or tool not in rows.get(n, {})]  # fmt: skip
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = {pool.submit(in_a_process, tool, name): (tool, name) for tool, name in todo}
        for job in as_completed(jobs):
            tool, name = jobs[job]
            rows.setdefault(name, {"network": name})[tool] = job.result()
            print(
                name, tool, [(x["outcome"], x.get("backend"), x.get("why", "")[:90]) for x in job.result()], flush=True
            )
            ordered = [rows[n] for n in NETWORKS if n in rows]
            write("public_models", ordered)
    if DOCS.exists():
        into_docs(DOCS, "public-models", render([rows[n] for n in NETWORKS if n in rows]))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    main()
