"""The layers of any network by module path: what there is, which to compare, their outputs in a forward."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from worker.distill.bridge import layout
from worker.distill.spec import SpecError

Size = int | tuple[int, int]  # of an image: the side of a square, or (H, W)
MAX_CLASS_TOKENS = 2  # class and distillation token, before tokens that form a grid
GROUPS = 4  # stages of a network without a pyramid of resolutions, such as a ViT


@dataclass(frozen=True)
class Layer:
    """A module whose output is one tensor; `shape` without the batch. A module called twice counts last."""

    path: str
    kind: str
    shape: tuple[int, ...]


# ---- tracing -------------------------------------------------------------------------------------


def trace(model: nn.Module, in_channels: int, image_size: Size) -> list[Layer]:
    """Every module with a tensor output, leaves and blocks, in the order in which the outputs appear.

    Nothing is computed and no memory taken (meta device); weights, modes and devices stay as they are.
    """
    found: dict[str, Layer] = {}

    def note(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.pop(path, None)  # called again: it moves to where it was called last
                found[path] = Layer(path, type(module).__name__, tuple(output.shape[1:]))

        return hook

    handles = [m.register_forward_hook(note(path)) for path, m in model.named_modules() if path]
    try:
        meta_forward(model, in_channels, image_size)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


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


# ---- choosing ------------------------------------------------------------------------------------


def stages(layers: Sequence[Layer]) -> list[Layer]:
    """The natural points to compare, in order: where a resolution ends, or every quarter of equal blocks.

    A convolutional or Swin-like network: for each resolution above one pixel the last block's output (the
    last layer's, if there are no blocks). A network of one resolution (ViT, mixer): the last block of each
    of up to four equal groups. The classifier is never one.
    """
    if len(layers) <= 1:
        return list(layers)
    pyramid = _pyramid(layers)
    if len(pyramid) >= 2:
        return pyramid
    blocks = _repeated(layers)
    if len(blocks) >= 2:
        count = min(GROUPS, len(blocks))
        return [blocks[(i + 1) * len(blocks) // count - 1] for i in range(count)]
    return pyramid or blocks


def propose_pair(student: Sequence[Layer], teacher: Sequence[Layer]) -> tuple[Layer, Layer]:
    """(student layer, teacher layer): the student's middle stage, and the teacher's of that resolution.

    Where no teacher stage has that resolution, the one at the same relative depth. A side of one layer is
    taken as chosen, and the other side is matched to it. SpecError when a side has nothing to compare.
    """
    ours, hints = stages(student), stages(teacher)
    for name, found in (("student_layer", ours), ("teacher_layer", hints)):
        if not found:
            raise SpecError(
                name, "", "no hidden layer with a spatial extent was found.", "Name a layer by its path."
            )
    if len(ours) == 1:
        return ours[0], _match(ours[0], 0.5, _pixels(student), hints, _pixels(teacher))
    if len(hints) == 1:
        return _match(hints[0], 0.5, _pixels(teacher), ours, _pixels(student)), hints[0]
    middle = len(ours) // 2
    depth = middle / (len(ours) - 1)
    return ours[middle], _match(ours[middle], depth, _pixels(student), hints, _pixels(teacher))


def _match(
    layer: Layer, depth: float, pixels: dict[str, int], others: list[Layer], theirs: dict[str, int]
) -> Layer:
    same = [
        other
        for other in others
        if pixels.get(layer.path, 0) and pixels[layer.path] == theirs.get(other.path)
    ]
    return same[-1] if same else others[round(depth * (len(others) - 1))]


def _pixels(layers: Sequence[Layer]) -> dict[str, int]:
    """H·W of every map by path: channels first (C, H, W) or last (H, W, C), or tokens that form a grid."""
    shaped = [layer for layer in layers if len(layer.shape) == 3]
    # The first map comes from a convolution, channels first: it shows the image's proportions.
    image = (shaped[0].shape[1], shaped[0].shape[2]) if len(shaped) > 1 else (1, 1)
    pixels = {}
    for layer in layers:
        try:
            found = layout(layer.shape, image)
        except ValueError:  # tokens that form no grid, or no shape of a feature at all
            continue
        # Within a pixel of the image's proportions; an attention's (heads, tokens, width) is no map.
        alike = abs(found.height * image[1] - found.width * image[0]) < max(image)
        if found.kind != "vector" and found.prefix <= MAX_CLASS_TOKENS and alike:
            pixels[layer.path] = found.height * found.width
    return pixels


def _pyramid(layers: Sequence[Layer]) -> list[Layer]:
    pixels = _pixels(layers)
    maps = [layer for layer in layers if pixels.get(layer.path, 1) > 1]
    parents = _parents(layers)
    blocks = [layer for layer in maps if layer.path in parents]
    if len({pixels[layer.path] for layer in blocks}) < 2:
        blocks = maps  # a plain chain of layers, such as torchvision's VGG
    by_size: dict[int, list[Layer]] = defaultdict(list)
    for layer in blocks:
        by_size[pixels[layer.path]].append(layer)
    # A pyramid only narrows: what is larger again is an attention's map or a stretched pooling.
    sizes = [size for i, size in enumerate(by_size) if size == min(list(by_size)[: i + 1])]
    inside = _resolutions_inside(maps, pixels)
    return [_last(by_size[size], pixels, inside) for size in sizes]


def _last(candidates: list[Layer], pixels: dict[str, int], inside: dict[str, set[int]]) -> Layer:
    """The last output that is not half-way through a block which goes on to the next resolution."""

    def halfway(layer: Layer) -> bool:
        # A module that spans more than two resolutions is the trunk itself, not a block of it.
        return any(
            pixels[path] != pixels[layer.path] and len(inside[path]) == 2
            for path in _ancestors(layer.path)
            if path in inside
        )

    whole = [layer for layer in candidates if not halfway(layer)]
    if whole:
        return whole[-1]
    shallowest = min(layer.path.count(".") for layer in candidates)
    return [layer for layer in candidates if layer.path.count(".") == shallowest][-1]


def _resolutions_inside(maps: Sequence[Layer], pixels: dict[str, int]) -> dict[str, set[int]]:
    """For each map module, even of one pixel, the resolution of its output and of every map within it."""
    inside = {path: {size} for path, size in pixels.items()}
    for layer in maps:
        for path in _ancestors(layer.path):
            if path in inside:
                inside[path].add(pixels[layer.path])
    return inside


def _repeated(layers: Sequence[Layer]) -> list[Layer]:
    """The longest run of sibling blocks of one kind and shape: a transformer's blocks."""
    families: dict[tuple[str, str, tuple[int, ...]], list[Layer]] = defaultdict(list)
    parents = _parents(layers)
    for layer in layers:
        if len(layer.shape) in (2, 3) and layer.path in parents:
            families[layer.path.rpartition(".")[0], layer.kind, layer.shape].append(layer)
    return max(families.values(), key=len, default=[])


def _parents(layers: Sequence[Layer]) -> set[str]:
    """The paths that have layers within: blocks, not leaves."""
    return {path for layer in layers for path in _ancestors(layer.path)}


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


# ---- tapping -------------------------------------------------------------------------------------


class Tap:
    """Inside `with Tap(model, paths) as tap:` each forward leaves `tap.outputs`, the layers' outputs by path.

    The outputs carry their gradient, or are ordinary tensors without one if the forward ran in inference
    mode. They are what the layer returned, even where a later layer overwrites it in place.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], field: str = "layer") -> None:
        modules = dict(model.named_modules())
        for path in paths:
            if not path or path not in modules:
                near = difflib.get_close_matches(path, [name for name in modules if name], n=5, cutoff=0.4)
                fix = (
                    f"Did you mean {', '.join(near)}?" if near else "Name a module by its path, e.g. layer2."
                )
                raise SpecError(field, path, "the network has no such layer.", fix)
        self._field = field
        self._model = model
        self._modules = {path: modules[path] for path in paths}
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

        self._handles = [module.register_forward_hook(hook(path)) for path, module in self._modules.items()]
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
