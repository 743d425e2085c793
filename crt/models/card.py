"""Model cards: the README.md beside trained weights, with the metadata that the Hub reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from crt._messages import printable

__all__ = ["make_card"]

_LIMITS = {
    "CRT": (
        "- It tells apart the classes above and nothing else; without labels it guesses among them, whatever an image "
        "shows.\n- Maps have one cell a patch before upsampling; refine them for crisp borders (`crt pseudo`).\n"
        "- Objects that always appear with their surroundings (boats and water) bring the surroundings along.\n"
    ),
    "BoundaryNet": (
        "- It learned where pseudo masks end, so it repeats their mistakes.\n"
        "- It works at a quarter of the image's resolution.\n"
    ),
    "SegmentationNet": "- It tells apart the classes above and nothing else.\n"
    "- If its training masks were pseudo masks, it repeats their mistakes.\n",
}
_ABOUT = {
    "CRT": "A vision transformer that turns image-level labels into class activation maps and masks (CRT, arXiv "
    "2209.15211).",
    "BoundaryNet": "A network that finds the boundaries between classes, between which a random walk refines class "
    "activation maps (IRN, Ahn et al., CVPR 2019).",
    "SegmentationNet": "A segmentation network trained by crt-wsss: images to masks.",
}
_USAGE = {
    "CRT": """model = crt.create_model("{address}", pretrained=True)
cams = model.cam(img, labels)  # (B, K, H, W) in [0, 1]
masks = model.segment(img)  # no labels needed""",
    "BoundaryNet": """refiner = crt.create_refiner("{address}", pretrained=True)
cam = refiner(image, cam)  # (B, 3, H, W) uint8, (B, k, h, w)""",
    "SegmentationNet": """model = crt.create_model("{address}", pretrained=True)
masks = model.segment(img)  # (B, H, W): 0 = background, i + 1 = class i""",
}
_TAGS = {"CRT": ["class-activation-map"], "BoundaryNet": ["boundary-detection"], "SegmentationNet": []}


def make_card(
    config: Mapping[str, Any],
    what: str,
    *,
    repo_id: str | None = None,
    name: str | None = None,
    license: str = "apache-2.0",
    datasets: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
    notes: str = "",
) -> ModelCard:
    """A card from a network's configuration and, if there are any, its measured results.

    Args:
        config: the contents of config.json.
        what: the network: "CRT", "BoundaryNet" or "SegmentationNet".
        repo_id: "org/name" on the Hub, for the usage example.
        name: the title; the default is that of the repository.
        license: an SPDX identifier in lower case, or "other".
        datasets: what it was trained on, as identifiers of the Hub.
        results: huggingface_hub's ``EvalResult``, which the Hub shows beside the card.
        notes: Markdown about training: data, recipe, seed, commands.
    """
    body = config.get("backbone") or config.get("encoder")
    name = name or (repo_id or f"{body}-{what}").rsplit("/", 1)[-1]
    data = ModelCardData(
        library_name="crt-wsss",
        license=license,
        pipeline_tag="image-segmentation",
        tags=["weakly-supervised-semantic-segmentation", *_TAGS[what], "crt-wsss"],
        datasets=list(datasets) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=list(results) or None,
    )
    address = f"hf-hub:{repo_id}" if repo_id and what != "BoundaryNet" else "local-dir:FOLDER"
    names = config.get("class_names")
    classes = f"## Classes\n\n{', '.join(map(printable, names))}\n\n" if names else ""
    rows = "\n".join(f"| `{key}` | {printable(value)} |" for key, value in config.items() if key != "class_names")
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {printable(name)}\n\n{_ABOUT[what]}\n\n## Usage\n\n"
        f"```python\nimport crt  # pip install crt-wsss\n\n{_USAGE[what].format(address=address)}\n```\n\n"
        f"{classes}## Settings\n\n| setting | value |\n|---|---|\n{rows}\n\n"
        f"## Training\n\n{notes or 'Not described yet: data and its licence, recipe, seed, commands.'}\n\n"
        f"## Results\n\n{_table(results)}\n\n## Limits\n\n{_LIMITS[what]}"
    )


def _table(results: Sequence[EvalResult]) -> str:
    if not results:
        return "Not measured yet. `crt eval` measures seeds, masks and boxes; name the list and the threshold."
    rows = []
    for r in results:
        cells = (r.dataset_name, r.dataset_split or "", r.metric_name or r.metric_type, r.metric_value)
        rows.append(f"| {' | '.join(map(printable, cells))} |")
    return "\n".join(["| data set | list | metric | value |", "|---|---|---|---|", *rows])
