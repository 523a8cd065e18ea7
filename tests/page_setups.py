"""What the blocks of a page take for granted ("your network", "your images"), small enough to run in a test."""

from __future__ import annotations

__all__ = ["FRESH", "SETUPS"]

_DIGITS = """
import secateur, torch
from torch import nn
from secateur.data import load
from secateur.models import create

data = load("digits", limit=64)
model = net = create("resnet_digits").eval()
x = images = data.sample(32)
inputs = example_inputs = x[:2]
"""
_SMALL = (
    _DIGITS
    + """
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.fc1, self.fc2 = nn.Conv2d(4, 8, 3), nn.Linear(288, 32), nn.Linear(32, 12)

    def forward(self, x):
        h = self.conv1(x.expand(-1, 4, -1, -1)).relu()
        return self.fc2(self.fc1(h.flatten(1)).relu())[:, :10]


model = Small().eval()
"""
)
_BERT = """
from transformers import BertConfig, BertModel

bert = BertModel(BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=6, num_attention_heads=2,
                            intermediate_size=64)).eval()
inputs = {"input_ids": torch.randint(64, (2, 8))}
"""

SETUPS = {
    "transformers.md": """
from pathlib import Path

from transformer_cases import CORPUS, causal

causal(Path("my-llama"))
Path("corpus.txt").write_text("\\n".join(CORPUS[:2] * 80))
""",
    "alive.md": _DIGITS + """
from transformers import LlamaConfig, LlamaForCausalLM

LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2,
)).save_pretrained("llama")
folder, tokens = "llama", torch.randint(64, (1, 8))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))

    def forward(self, images):
        found = self.head(self.backbone(images)).flatten(2)[0]
        return found[:, found[4] > found[4].median()]  # how many, the data decide


detector = Detector().eval()
""",
    "bring-your-own.md": """
from pathlib import Path

Path("recipes").mkdir()
Path("recipes/mine.yaml").write_text("name: mine\\ndescription: d\\nsteps:\\n- adapt:\\n- report:\\n")
__file__ = str(Path("my_module.py").resolve())
""",
    "criteria.md": _DIGITS + """
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(x, torch.randint(10, (len(x),))), batch_size=16)
my_loss = nn.CrossEntropyLoss(label_smoothing=0.1)
""",
    "double-pruning.md": _DIGITS,
    "finetuning.md": _DIGITS + """
dense, pruned = net, secateur.prune(net, x[:2], ratio=0.5)
""",
    "layer-pruning.md": _DIGITS + """
from safetensors.torch import save_file

save_file(create("resnet56").state_dict(), "resnet56.safetensors")
""" + _BERT,
    "measuring.md": "",
    "network-trimming.md": "",
    "onnx.md": """
import secateur, torch
from torch import nn


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 1))

    def forward(self, x):
        return self.net(x)


secateur.export(Reader().eval(), torch.randn(1, 3, 48, 320), "model.onnx")
""",
    "recovery.md": _DIGITS,
    "runtimes.md": _DIGITS,
    "sensitivity.md": "",
    "sparsity.md": """
import torch
from torch import nn
from secateur.sparsity import load_converted


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(64, 64)

    def forward(self, x):
        return self.classifier(x)


model, dense_model, example_inputs = Network().eval(), Network().eval(), torch.randn(4, 64)
""",
    "weight-pruning.md": _SMALL + """
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(x, torch.randint(10, (len(x),))), batch_size=16)
example_inputs, early = x[:2], {n: p + 0.1 for n, p in model.state_dict().items()}
config = secateur.TrainConfig(epochs=1, batch_size=32)
""",
}  # fmt: skip
"""What runs before the blocks of a page that are Python."""

FRESH = ("bring-your-own.md", "criteria.md", "double-pruning.md", "runtimes.md")
"""Pages that register criteria, penalties or runtimes: they run in a process of their own."""
