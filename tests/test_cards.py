"""Model cards: what save_pretrained writes, and what is bundled, as the Hub's own client reads it."""

import re

import pytest
from huggingface_hub import EvalResult, ModelCard

import crt
from crt.models import BoundaryNet
from crt.models.card import make_card
from crt.models.config import SETTINGS
from crt.models.factory import BUNDLED

RESULT = EvalResult(
    task_type="image-segmentation",
    dataset_type="acme/fruit",
    dataset_name="Fruit",
    dataset_split="val",
    metric_type="mean_iou",
    metric_name="seed mIoU",
    metric_value=61.5,
)


def checked(card):
    """What the Hub asks of a card: its metadata, identifiers of data sets, and results with numbers."""
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("crt-wsss", "image-segmentation")
    assert re.fullmatch(r"[a-z0-9.-]+", data.license)
    assert data.license != "other" or re.fullmatch(r"[a-z0-9-]+", data.license_name)
    assert all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) for name in data.datasets or [])
    for result in data.eval_results or []:
        assert isinstance(result.metric_value, float)
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)?", result.dataset_type)
    assert set(data.metrics or []) == {result.metric_type for result in data.eval_results or []}
    return data


def test_a_card_with_results(tiny, tmp_path):
    card = {"results": [RESULT], "datasets": ["acme/fruit"], "license": "mit", "name": "fruit", "notes": "Seed 0."}
    tiny.save_pretrained(tmp_path, card=card)
    card = ModelCard.load(tmp_path / "README.md")
    data = checked(card)
    assert (data.license, data.datasets, data.eval_results) == ("mit", ["acme/fruit"], [RESULT])
    assert "| Fruit | val | seed mIoU | 61.5 |" in card.text
    assert "cat, dog, cow, bird, person" in card.text and "Seed 0." in card.text
    for part in ("## Usage", "## Limits", "crt.create_model(", "| `num_passes` | 3 |"):
        assert part in card.text


@pytest.mark.parametrize("network", ["tiny", "boundary"])
def test_a_card_from_the_configuration_alone(tiny, network, tmp_path):
    (tiny if network == "tiny" else BoundaryNet()).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert checked(card).eval_results is None
    assert "Not measured yet" in card.text
    assert ("create_model" if network == "tiny" else "create_refiner") in card.text


@pytest.mark.parametrize("what", [what for what in SETTINGS if what != "CNNBranch"])
def test_every_network_that_is_saved_has_a_card(what):
    card = make_card({"backbone": "x", "encoder": "x", "class_names": ["a"]}, what, repo_id="acme/x", results=[RESULT])
    assert checked(card).model_name == "x"


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in BUNDLED.glob("*/README.md")))
def test_bundled_cards(folder):
    card = ModelCard.load(BUNDLED / folder / "README.md")
    data = checked(card)
    assert data.eval_results and data.model_name == folder
    for result in data.eval_results:
        assert f"{result.metric_value:g}" in card.text, "the text and the metadata say the same"
    assert "## Limits" in card.text


def test_home_folder_and_a_folder_that_cannot_be(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.save_pretrained("~/mine")
    assert crt.create_model("local-dir:~/mine", pretrained=True).config == tiny.config
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/model"):
        tiny.save_pretrained(tmp_path / "file/model")


def test_a_configuration_that_could_not_be_loaded_is_not_saved(tiny, tmp_path):
    tiny.seed_threshold = float("nan")
    with pytest.raises(ValueError, match="seed_threshold"):
        tiny.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
