"""A student that answers through another network's classifier."""

from __future__ import annotations

from torch import Tensor, nn

from worker.distill.bridge import pool, to_map
from worker.distill.layers import INPUT, Tap, meta_forward
from worker.distill.pairing import Layer, Layout
from worker.distill.spec import SpecError


class Grafted(nn.Module):
    """The student's trunk up to a layer, a map to other channels, global pooling, a classifier.

    how, size: how the layer is read as a map, and what it is pooled to before `transfer`. What the student
    has behind the layer is taken out; image (C, H, W) is what it is tried with.
    """

    def __init__(
        self,
        student: nn.Module,
        layer: Layer,
        how: Layout,
        size: tuple[int, int],
        transfer: nn.Module,
        classifier: nn.Linear,
        image: tuple[int, int, int],
    ) -> None:
        super().__init__()
        without_tail(student, layer.path, image)
        self.trunk, self.transfer, self.classifier = student, transfer, classifier
        self.path, self.how, self.size = layer.path, how, size
        self.tap = Tap(student, [layer.path])

    def forward(self, x: Tensor) -> Tensor:
        with self.tap:
            self.trunk(x)
            feature = self.tap.outputs[self.path]
        feature = self.transfer(pool(to_map(self.how, feature), self.size))  # (B, C_t, H, W)
        logits: Tensor = self.classifier(feature.mean(dim=(2, 3)))
        return logits


def without_tail(network: nn.Module, path: str, image: tuple[int, int, int]) -> None:
    """Take out the modules with parameters that run only behind the layer: nobody asks for their answer.

    All at once, else from the last one on each without which the network still runs. Names before stay.
    """
    tail = behind(network, path, image)[::-1]
    for names in (tail, *([name] for name in tail)):
        taken = {name: network.get_submodule(name) for name in names}
        taken = {name: module for name, module in taken.items() if any(True for _ in module.parameters())}
        if not taken:
            continue
        for name in taken:
            network.set_submodule(name, nn.Identity())
        try:
            meta_forward(network, image[0], image[1:])
        except SpecError:  # what follows needs its shape, or more of it than a forward: it stays
            for name, module in taken.items():
                network.set_submodule(name, module)


def behind(network: nn.Module, path: str, image: tuple[int, int, int]) -> list[str]:
    """The outermost modules that start after the layer's last output and at no other time, in order."""
    started: list[str] = []
    end = 0

    def passed(*_: object) -> None:
        nonlocal end
        end = len(started)

    handles = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: started.append(name))
        for name, module in network.named_modules()
        if name
    ]
    handles.append(network.get_submodule(path.removesuffix(INPUT)).register_forward_hook(passed))
    try:
        meta_forward(network, image[0], image[1:])
    finally:
        for handle in handles:
            handle.remove()
    before = set(started[:end])
    after = [name for name in dict.fromkeys(started[end:]) if name not in before]
    return [name for name in after if not any(name.startswith(f"{outer}.") for outer in after)]
