"""Two tiny networks for the feature methods' tests, and a step of theirs."""

import torch
from torch import nn

from worker.distill import methods
from worker.distill.layers import Tap


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.early = nn.Conv2d(1, width, 3, padding=1)
        self.late = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x):
        return self.head(self.late(self.early(x).relu()).relu().mean((2, 3)))


def pair(**about):
    """A student of 2 and 4 channels, a teacher of 4 and 8; layers `early` and `late`."""
    return methods.Pair(Net(2), Net(4), (1, 8, 8), 3, **about)


def step(about, number=0):
    """Four samples, with every layer's output whole and pooled."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(4, 1, 8, 8, generator=generator)
    index = torch.randperm(20, generator=generator)[:4]
    seen = {}
    for side in ("student", "teacher"):
        model = getattr(about, side)
        with Tap(model, ["early", "late"]) as tap:
            logits, outputs = model(x), tap.outputs
        if side == "teacher":
            logits, outputs = logits.detach(), {path: f.detach() for path, f in outputs.items()}
        seen |= {f"{side}_logits": logits, f"{side}_features": outputs}
        seen[f"{side}_vectors"] = {path: f.mean((2, 3)) for path, f in outputs.items()}
    return methods.Step(labels=index % 3, index=index, number=number, **seen)
