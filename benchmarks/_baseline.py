"""CAMs in the obvious way, as the paper's public code goes about it: what the library is timed and checked against.

One scale after another, the photo and then its mirror image, all tiles of a view at once, every attention matrix made
and kept until the end.  It has the weights of a ``CRT`` but none of its code for tiles, attention or scales.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def transformer(
    model: Any, tiles: Tensor, kept: Callable[[Tensor], Tensor] = lambda matrix: matrix
) -> tuple[Tensor, list[Tensor]]:
    """Tiles (T, 3, tile, tile) -> class maps (T, K, g, g) and all attention matrices (T, heads, N, N).

    ``kept`` says what is kept of a matrix: here all of it.
    """
    vit, matrices = model.backbone, []

    def blocks(x: Tensor) -> Tensor:
        for block in vit.blocks:
            layer, y = block.attn, block.norm1(x)
            t, n, d = y.shape
            q, k, v = layer.qkv(y).reshape(t, n, 3, layer.num_heads, d // layer.num_heads).permute(2, 0, 3, 1, 4)
            matrix = (q @ k.transpose(-2, -1) * layer.scale).softmax(dim=-1)
            matrices.append(kept(matrix))
            x = x + layer.proj((matrix @ v).transpose(1, 2).reshape(t, n, d))
            x = x + block.mlp(block.norm2(x))
        return x

    x = vit._pos_embed(vit.patch_embed(tiles))
    if model.num_passes == 0:
        x = blocks(x)
    for _ in range(model.num_passes):
        x = x + blocks(x)
    side = model.tile // model.patch
    patches = vit.norm(x)[:, model.prefix :].transpose(1, 2).reshape(len(tiles), -1, side, side)
    return model.head(patches), matrices


def plain_tile_maps(model: Any, tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Tiles (T, 3, tile, tile) -> class maps (T, K, g, g) and class attention (T, 1, g, g), from kept matrices."""
    maps, matrices = transformer(model, tiles)
    attention = torch.stack(matrices).mean(dim=2).sum(dim=0)[:, 0, model.prefix :]
    return maps, attention.reshape(-1, 1, *maps.shape[2:]) ** model.attention_power


TileMaps = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


def view_cam(model: Any, view: Tensor, tile_maps: TileMaps) -> Tensor:
    """A padded view (3, H, W) -> (K, H / patch, W / patch), not negative."""
    patch, tile = model.patch, model.tile
    starts = [[*range(0, side - tile, model.stride), side - tile] for side in view.shape[1:]]
    places = [(top, left) for top in starts[0] for left in starts[1]]
    tiles = torch.stack([view[:, top : top + tile, left : left + tile] for top, left in places])
    maps, attention = tile_maps(model, tiles)
    maps = maps * attention
    side = tile // patch
    total = maps.new_zeros(maps.shape[1], view.shape[1] // patch, view.shape[2] // patch)
    cover = total[0].clone()
    for tile_map, (top, left) in zip(maps, places, strict=True):
        rows, columns = slice(top // patch, top // patch + side), slice(left // patch, left // patch + side)
        total[:, rows, columns] += tile_map
        cover[rows, columns] += 1
    total = total / cover
    return total.relu() if model.activation == "relu" else total.sigmoid()


def scale_cam(model: Any, image: Tensor, align: str, tile_maps: TileMaps = plain_tile_maps) -> Tensor:
    """(3, H, W) -> (K, ceil(H / patch), ceil(W / patch)): image and mirror image, padded as ``align`` says."""
    sides = image.shape[1:]
    if align == "reference":
        padded = [max((side // model.stride + 1) * model.stride, model.tile) for side in sides]
    else:
        padded = [max(side, model.tile) for side in sides]
    rows, columns = (math.ceil(side / model.patch) for side in sides)
    total = 0
    for mirrored in (False, True):
        seen = image.flip(-1) if mirrored else image
        view = F.pad(seen, (0, padded[1] - sides[1], 0, padded[0] - sides[0]))
        cam = view_cam(model, view, tile_maps)[:, :rows, :columns]
        total = total + (cam.flip(-1) if mirrored else cam)
    return total


@torch.no_grad()
def plain_cam(
    model: Any, image: Tensor, labels: list[int], scales: tuple[float, ...], tile_maps: TileMaps = plain_tile_maps
) -> Tensor:
    """A normalized photo (3, H, W) -> (k, H, W) in [0, 1], the library's default alignment."""
    height, width = image.shape[1:]
    total = 0
    for scale in scales:
        size = [math.ceil(round(side * scale, 6) / model.patch) * model.patch for side in (height, width)]
        scaled = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
        cam = scale_cam(model, scaled, "exact", tile_maps)
        total = total + F.interpolate(cam[None], (height, width), mode="bilinear", align_corners=False)[0]
    kept = total[labels]
    return kept / (kept.amax(dim=(1, 2), keepdim=True) + 1e-5)
