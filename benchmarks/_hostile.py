"""Hostile inputs from a seed: pictures, tables, weights and configurations, most of them damaged."""

import copy
import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["WORDS", "damaged", "honest_table", "hostile_config", "hostile_weights", "picture", "table"]

WORDS = ("cat", "dog", "cow", "owl", "ape")
FILES = [f"{i}.jpg" for i in range(12)]
_MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "P", "RGBA", "LA", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("P", "L"),
    "TIFF": ("RGB", "L", "P", "CMYK", "I;16", "F", "RGBA"),
    "PPM": ("RGB", "L", "1"),
}
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**9, 10**400, 1e-300, 1e308, float("nan"), float("inf"), "", "x", "x" * 10_000,
    "\x1b[31m", "../../etc/passwd", "/dev/zero", "evil.pth", [], {}, [[]], [None] * 3, [0, 0, 0], [1e-300] * 3,
    {"a": {}},
)  # fmt: skip
_KEYS = (
    "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only",
    "norm_layer", "act_layer", "attn_layer", "block_fn", "mlp_layer", "embed_layer", "drop_path_rate", "img_size",
    "global_pool", "fc_norm", "dynamic_img_size", "scriptable", "exportable", "__class__", "weight_init",
    "file", "url", "hf_hub_id",
)  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four flips, cuts, insertions, doublings or fields of extreme values."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(found), 400) if rng.random() < 0.6 else len(found)) if found else 0
        kind = rng.randrange(6)
        if kind == 0 and found:
            found[place] = rng.randrange(256)
        elif kind == 1:
            del found[place:]
        elif kind == 2:
            found[place:place] = rng.randbytes(rng.randint(1, 9))
        elif kind == 3:
            del found[place : place + rng.randint(1, 40)]
        elif kind == 4:
            found[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
        else:
            found[place:place] = found[place : place + rng.randint(1, 200)]
    return bytes(found)


def picture(rng: random.Random) -> bytes:
    """A small picture in one of the formats that are read, or one that is not; usually damaged."""
    kind = rng.choice(list(_MODES))
    mode = rng.choice(_MODES[kind])
    shape = (rng.randint(1, 40), rng.randint(1, 40))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels.astype(np.uint16)[..., 0] * 257) if mode == "I;16" else Image.fromarray(pixels)
    image = image if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = rng.randint(0, 9)
    stream = io.BytesIO()
    image.save(stream, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
    data = stream.getvalue()
    if rng.random() < 0.02:
        data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + data
    return damaged(data, rng) if rng.random() < 0.9 else data


def honest_table(rng: random.Random) -> tuple[str, str, dict[str, set[str]]]:
    """A CSV or JSON as some tool or person writes it: its suffix, its text, and what it says."""
    truth = {file[:-4]: set(rng.sample(WORDS, rng.choice([0, 1, 1, 1, 2, 3]))) for file in FILES}
    for word, name in zip(WORDS, truth, strict=False):  # each class alone at least once
        truth[name] = {word}
    rows = [(file, rng.sample(sorted(truth[file[:-4]]), len(truth[file[:-4]]))) for file in FILES]
    rng.shuffle(rows)
    if rng.random() < 0.3:
        return ".json", json.dumps(_coco(rows, rng)), truth
    delimiter = rng.choice(",;\t")
    separator = rng.choice([mark for mark in (";", "|", ",", " ", "; ", ", ", "json") if mark.strip() != delimiter])
    prefix = rng.choice(["", "", "./", "photos/", "photos\\"])
    stream = io.StringIO()
    end = rng.choice(["\n", "\r\n"])
    writer = csv.writer(stream, delimiter=delimiter, quoting=rng.choice([0, 1]), lineterminator=end)
    writer.writerow(
        [rng.choice(["file", "File", "filename", "image", " path"]), rng.choice(["labels", "Label", "classes "])]
    )
    trailing = separator.strip() if separator.strip() in (";", "|") and rng.random() < 0.3 else ""
    for file, names in rows:
        cell = json.dumps(names) if separator == "json" else separator.join(names) + (trailing if names else "")
        writer.writerow([prefix + file, cell])
        if rng.random() < 0.1:
            stream.write(end)
    return ".csv", rng.choice(["", "", "\ufeff"]) + stream.getvalue(), truth


def table(rng: random.Random) -> tuple[str, bytes]:
    """A damaged table: its suffix and its bytes."""
    suffix, text, _ = honest_table(rng)
    if suffix == ".json" and rng.random() < 0.7:
        return suffix, json.dumps(_mutated(json.loads(text), rng)).encode()
    if rng.random() < 0.1:
        suffix = ".xml"
        text = "<annotations><image name='0.jpg'><box label='cat'/></image><image name='1.jpg'/></annotations>"
    return suffix, damaged(text.encode(), rng)


def _coco(rows: list[tuple[str, list[str]]], rng: random.Random) -> dict[str, Any]:
    first, gap = rng.choice([0, 1, 5]), rng.choice([1, 3])
    ids = {word: first + gap * i for i, word in enumerate(WORDS)}
    photos = [{"id": i, "file_name": file, "width": 9, "height": 9} for i, (file, _) in enumerate(rows)]
    marks = [(i, ids[name]) for i, (_, names) in enumerate(rows) for name in names]
    notes = [{"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 1, 1]} for n, (i, c) in enumerate(marks)]
    return {"images": photos, "annotations": notes, "categories": [{"id": i, "name": n} for n, i in ids.items()]}


def _mutated(value: Any, rng: random.Random) -> Any:
    """The JSON value with one to three of its parts replaced, removed, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        part: Any = value
        while isinstance(part, (dict, list)) and part:
            key = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
            inner = part[key]
            if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
                part = inner
                continue
            kind = rng.randrange(4)
            if kind == 0:
                del part[key]
            elif kind == 1 and isinstance(part, dict):
                part[rng.choice(_KEYS)] = _value(rng)
            elif kind == 2 and isinstance(part, list):
                part.append(copy.deepcopy(inner))
            else:
                part[key] = _value(rng)
            break
    return value


def _value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(_VALUES))


def hostile_config(config: dict[str, Any], evil: Path, rng: random.Random) -> str:
    """A config.json with foreign or extreme values, most of them valid JSON."""
    found = _mutated(config, rng)
    inner = found.get("backbone_args")
    for target in (found, inner) if isinstance(inner, dict) else (found,):
        if rng.random() < 0.5:
            target[rng.choice(_KEYS)] = rng.choice([str(evil), {"file": str(evil)}, True, _value(rng)])
    text = json.dumps(found)
    if rng.random() < 0.1:
        text = damaged(text.encode(), rng).decode("latin-1")
    return "[" * 100_000 if rng.random() < 0.01 else text


def hostile_weights(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header or values are damaged."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        return damaged(data, rng)
    if kind == 1:  # values: NaN, infinity, huge
        place = 4 * rng.randrange(len(body) // 4)
        extreme = rng.choice([float("nan"), float("inf"), -float("inf"), 3e38])
        body = body[:place] + np.float32(extreme).tobytes() + body[place + 4 :]
    else:
        header = _mutated(header, rng)
        name = rng.choice(list(header))
        if kind == 2 and isinstance(header[name], dict):
            header[name]["dtype"] = rng.choice(
                ["I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "I64", "F16", "BF16", "F64", "X"]
            )
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body
