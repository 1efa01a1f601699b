"""Which layers of two networks to compare. Free of torch: the web proposes pairs with the engine's own rule.

Every feature is read as a map (C, H, W): tokens lie on their grid (class and distillation tokens dropped), a
vector is a map of one pixel.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.distill.spec import SpecError

Shape = tuple[int, ...]
MAX_PREFIX = 16  # class, distillation and register tokens before the grid
MAX_CLASS_TOKENS = 2  # class and distillation token, before tokens that form a grid
GROUPS = 4  # stages of a network without a pyramid of resolutions, such as a ViT


@dataclass(frozen=True)
class Layer:
    """A module whose output is one tensor; `shape` without the batch. A module called twice counts last."""

    path: str
    kind: str
    shape: tuple[int, ...]
    activation: str = ""  # path of the module whose non-linearity made this very output; "" if none did


# ---- reading a shape as a map -----------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How a feature of some shape is read as a map."""

    kind: Literal["map", "channels last", "tokens", "vector"]
    channels: int
    height: int
    width: int
    prefix: int = 0


def layout(shape: Shape, image: tuple[int, int]) -> Layout:
    """Read a shape (without batch) as a map; image (H, W) tells square from oblong. ValueError if none."""
    match shape:
        case (c,):
            return Layout("vector", c, 1, 1)
        case (n, c):
            prefix, h, w = _grid(n, image)
            return Layout("tokens", c, h, w, prefix)
        case (a, b, c):
            # Swin-like nets put channels last: then the first two have the image's proportions
            if _alike(a, b, image) and not _alike(b, c, image):
                return Layout("channels last", c, a, b)
            return Layout("map", a, b, c)
    raise ValueError(f"an output of shape {shape} is neither a map, nor tokens, nor a vector")


def _alike(h: int, w: int, image: tuple[int, int]) -> bool:
    return h * image[1] == w * image[0]


def _grid(n: int, image: tuple[int, int]) -> tuple[int, int, int]:
    """n tokens as (prefix, H, W) with the image's proportions and the fewest tokens before the grid."""
    for prefix in range(min(n, MAX_PREFIX + 1)):
        h = math.isqrt((n - prefix) * image[0] // image[1])
        for height in (h, h + 1):
            width, rest = divmod(n - prefix, height) if height else (0, 1)
            if not rest and _alike(height, width, image):
                return prefix, height, width
    raise ValueError(f"{n} tokens form no grid of the image's proportions ({image[0]} × {image[1]})")


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


def propose_pairs(student: Sequence[Layer], teacher: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """A pair for every stage of the network that has fewer: by resolution, else by relative depth, in order.

    SpecError when a side has nothing to compare.
    """
    ours, hints = stages(student), stages(teacher)
    for name, found in (("student_layers", ours), ("teacher_layers", hints)):
        if not found:
            raise SpecError(
                name, "", "no hidden layer with a spatial extent was found.", "Name layers by their paths."
            )
    swap = len(hints) < len(ours)
    few, many = (hints, ours) if swap else (ours, hints)
    sizes, theirs = (_pixels(teacher), _pixels(student)) if swap else (_pixels(student), _pixels(teacher))
    pairs: list[tuple[Layer, Layer]] = []
    taken = 0  # of the other side; a later stage is never paired with an earlier one than its predecessor's
    for i, layer in enumerate(few):
        left = many[taken : len(many) - (len(few) - 1 - i)]
        depth = 1.0 if len(few) == 1 else i / (len(few) - 1)
        chosen = _match(layer, depth, sizes, many, theirs)
        if chosen not in left:
            chosen = left[0] if many.index(chosen) < taken else left[-1]
        taken = many.index(chosen) + 1
        pairs.append((chosen, layer) if swap else (layer, chosen))
    return pairs


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
