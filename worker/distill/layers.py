"""The layers of any network by module path: what there is, and their outputs in a forward."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from worker.distill.pairing import Layer
from worker.distill.spec import SpecError

Size = int | tuple[int, int]  # of an image: the side of a square, or (H, W)
INPUT = ":input"  # after a module's path: what it is given, instead of what it returns
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish)


# ---- tracing -------------------------------------------------------------------------------------


def trace(model: nn.Module, in_channels: int, image_size: Size) -> list[Layer]:
    """Every module with a tensor output, leaves and blocks, in the order in which the outputs appear.

    Nothing is computed and no memory taken (meta device); weights, modes and devices stay as they are.
    """
    found: dict[str, Layer] = {}
    outputs: dict[str, Tensor] = {}  # each module's last; kept, so that no two have one identity

    def note(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.pop(path, None)  # called again: it moves to where it was called last
                found[path] = Layer(path, type(module).__name__, tuple(output.shape[1:]))
                outputs[path] = output

        return hook

    handles = [m.register_forward_hook(note(path)) for path, m in model.named_modules() if path]
    try:
        meta_forward(model, in_channels, image_size)
    finally:
        for handle in handles:
            handle.remove()
    active = {
        id(outputs[path]): path
        for path, module in model.named_modules()
        if path in outputs and isinstance(module, ACTIVATIONS)
    }
    return [replace(layer, activation=_inside(layer, active, outputs)) for layer in found.values()]


def _inside(layer: Layer, active: dict[int, str], outputs: dict[str, Tensor]) -> str:
    """The activation that is the layer, or lies in it, and made its output; one that follows it does not."""
    path = active.get(id(outputs[layer.path]), "")
    return path if f"{path}.".startswith(f"{layer.path}.") else ""


def before_activation(layer: Layer) -> Layer:
    """The features before the layer's last non-linearity; the layer's own where it ends without one."""
    return replace(layer, path=layer.activation + INPUT) if layer.activation else layer


def meta_forward(model: nn.Module, in_channels: int, image_size: Size) -> Any:
    """The model's output for one image on the meta device: shapes without numbers. SpecError if none."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    image = torch.empty(1, in_channels, *size, device="meta")
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    try:
        with evaluating(model), torch.no_grad():
            return torch.func.functional_call(model, state, (image,))
    except Exception as error:  # whatever a network of any library says about an input it was not made for
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SpecError(
            "image_size",
            image_size,
            f"the network does not work on {size[0]}×{size[1]} images of {in_channels} channels ({reason}).",
            "Choose a dataset with larger images, or a network for small ones such as resnet20.",
        ) from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (one image is no batch to normalise by), and every module's mode restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


# ---- tapping -------------------------------------------------------------------------------------


class Tap:
    """Inside `with Tap(model, paths) as tap:` each forward leaves `tap.outputs`, the layers' outputs by path.

    The outputs carry their gradient, or are ordinary tensors without one if the forward ran in inference
    mode. They are what the layer returned, even where a later layer overwrites it in place. A path that ends
    in ":input" gives what the layer was given: of an activation, the features before it.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], field: str = "layer") -> None:
        modules = dict(model.named_modules())
        for path in paths:
            module = path.removesuffix(INPUT)
            if not module or module not in modules:
                near = difflib.get_close_matches(path, [name for name in modules if name], n=5, cutoff=0.4)
                fix = (
                    f"Did you mean {', '.join(near)}?" if near else "Name a module by its path, e.g. layer2."
                )
                raise SpecError(field, path, "the network has no such layer.", fix)
        self._field = field
        self._model = model
        self._modules = {path: modules[path.removesuffix(INPUT)] for path in paths}
        self._outputs: dict[str, Tensor] = {}
        self._originals: dict[str, tuple[Tensor, int]] = {}  # seen this forward, with its version then
        self._untouched: set[str] = set()  # layers whose output nobody overwrites: no copy is needed
        self._handles: list[RemovableHandle] = []

    @property
    def outputs(self) -> dict[str, Tensor]:
        """Of the latest forward, in the order of `paths`."""
        self._settle()
        for path in self._modules:
            if path not in self._outputs:
                raise SpecError(
                    self._field, path, "the layer did not run or returned no tensor.", "Choose another layer."
                )
        return {path: self._outputs[path] for path in self._modules}

    def _capture(self, path: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if output.is_inference():
            # Such a tensor may not enter a graph and does not say whether it was overwritten: copy it.
            with torch.inference_mode(False):
                self._outputs[path] = output.clone()
        elif path in self._untouched:
            self._outputs[path] = output
        else:
            self._outputs[path] = output.clone()
            self._originals[path] = (output, output._version)

    def _settle(self) -> None:
        """After a forward: a layer that kept its version needs no copy from now on."""
        for path, (original, version) in self._originals.items():
            if original._version == version:
                self._untouched.add(path)
        self._originals.clear()

    def _begin(self) -> None:
        self._settle()
        self._outputs.clear()

    def __enter__(self) -> Self:
        def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
            return lambda _module, _inputs, output: self._capture(path, output)

        def before(path: str) -> Callable[[nn.Module, Any], None]:
            return lambda _module, inputs: self._capture(path, inputs[0] if inputs else None)

        self._handles = [
            module.register_forward_pre_hook(before(path))
            if path.endswith(INPUT)
            else module.register_forward_hook(hook(path))
            for path, module in self._modules.items()
        ]
        self._handles.append(self._model.register_forward_pre_hook(lambda _module, _inputs: self._begin()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._outputs.clear()
        self._originals.clear()
