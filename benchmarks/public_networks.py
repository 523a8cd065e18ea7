"""Networks of public libraries, made small from their configurations: what public_models.py cuts."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

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
transformer("DPTConfig", "DPTForDepthEstimation", lambda: pixels(1, 32), lambda: pixels(2, 32),
            **{**SEEN, "num_hidden_layers": 4}, neck_hidden_sizes=[16, 32, 48, 64], fusion_hidden_size=32,
            backbone_out_indices=[0, 1, 2, 3], is_hybrid=False)  # fmt: skip
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

    net = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4),
                    spatial_dims=2)  # fmt: skip
    return net, torch.randn(1, 1, 64, 64), torch.randn(2, 1, 96, 64)


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
