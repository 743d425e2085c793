"""Training on a frozen backbone: objectness, pseudo labels, margins and the head, on features with planted objects."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

pytest.importorskip("accelerate", reason="needs the extra `train`")

from typer.testing import CliRunner

from crt.cli import app
from crt.data import ImageDataset
from crt.models import CRT
from crt.train import make_recipe, train_frozen
from crt.train.features import FeatureCache
from crt.train.frozen import fold_background
from crt.train.head import HeadRecipe, train_head
from crt.train.margins import best_margins, lowered, margin_counts, otsu_margins, posterior
from crt.train.objectness import Linear, fit_objectness, object_map
from crt.train.patch_labels import IGNORED, fit_labels, fit_patches, label_by_head, label_by_maps
from crt.train.recipe import FrozenRecipe

from .test_train import folder, photos_of, tiny_model  # noqa: F401 (fixtures)
from .test_train_masks import masked  # noqa: F401

GRID, WIDTH, CLASSES = (6, 8), 16, 3
QUICK = FrozenRecipe(steps=60, head_steps=60, round_steps=40, batch_patches=256, token_steps=20, batch_size=8)


class Planted:
    """Features as of a ``FeatureCache``: an object of 12 patches in each image, a direction for each class, on ground.

    Class 0 stands mostly before one kind of ground, as an aeroplane before the sky; the others seldom do.
    """

    shard = 10

    def __init__(self, images=40, seed=0):
        g = torch.Generator().manual_seed(seed)
        directions = 3 * F.normalize(torch.randn(CLASSES + 3, WIDTH, generator=torch.Generator().manual_seed(9)), dim=1)
        self.targets = F.one_hot(torch.arange(images) % CLASSES, CLASSES).float()
        common = 3 * F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(8)), dim=0)
        patches, attention, self.truth = [], [], []
        for i in range(images):
            label = i % CLASSES
            inside = torch.zeros(GRID, dtype=torch.bool)
            top, left = (int(torch.randint(0, n, (), generator=g)) for n in (3, 5))
            inside[top : top + 4, left : left + 3] = True
            sky = float(torch.rand((), generator=g)) < (0.7 if label == 0 else 0.2)
            ground = directions[CLASSES + (0 if sky else int(torch.randint(1, 3, (), generator=g)))]
            x = torch.where(inside[..., None], directions[label] + 0.7 * common, ground)
            patches.append((x + 0.3 * torch.randn(*GRID, WIDTH, generator=g)).flatten(0, 1).half())
            noise = torch.rand(GRID, generator=g)
            attention.append((inside * 0.6 + noise * 0.5 + (noise > 0.98) * 20).flatten())
            self.truth.append(torch.where(inside, label + 1, 0))
        self._patches, self._attention = torch.stack(patches), torch.cat(attention)

    def __len__(self):
        return len(self.targets)

    def grids(self):
        return torch.tensor(GRID).expand(len(self), 2)

    def means(self):
        return self._patches.float().mean(dim=1)

    def attentions(self):
        return self._attention

    def shard_patches(self, number):
        return self._patches[number * self.shard :][: self.shard].flatten(0, 1)

    def shards(self):
        for number in range(-(-len(self) // self.shard)):
            indices = range(number * self.shard, min(len(self), (number + 1) * self.shard))
            yield indices, self.grids()[: len(indices)], self.shard_patches(number)

    def shares(self, index):
        return F.one_hot(self.truth[index], CLASSES + 1).permute(2, 0, 1).float()


@pytest.fixture(scope="module")
def planted():
    return Planted()


def right(cache, labels):
    """Share of the labeled patches whose label is true."""
    truth = torch.stack(cache.truth).flatten()
    return float((labels == truth)[labels != IGNORED].float().mean())


def first_head(cache, **changes):
    objectness = fit_objectness(cache)
    classifier = fit_labels(cache.means(), cache.targets, steps=200, batch_size=8, lr=1e-2, weight_decay=0.01, seed=0)
    settings = {"power": 4.0, "floor": 0.05, "below": 0.38, "above": 0.55, **changes}
    labels = label_by_maps(cache, classifier, objectness, **settings)
    return fit_patches(cache, labels, steps=100, batch_patches=256, lr=1e-2, weight_decay=0.01, seed=0), labels


def test_objectness_finds_what_images_have_in_common(planted):
    objectness = fit_objectness(planted)
    hits = 0
    for index, truth in enumerate(planted.truth):
        x = planted._patches[index]
        scores = object_map(objectness, x)
        assert scores.min() >= 0.05 and scores.max() <= 1
        hits += bool(scores[truth.flatten() > 0].min() > scores[truth.flatten() == 0].max())
    assert hits >= 36
    few = Planted(20)
    few._patches, few._attention = planted._patches[:20], planted._attention[: 20 * 48]
    few._patches = torch.cat([few._patches, few._patches])  # every image twice: the same layer
    few._attention, few.targets = torch.cat([few._attention] * 2), torch.cat([few.targets] * 2)
    once = Planted(20)
    assert torch.allclose(fit_objectness(few).weight, fit_objectness(once).weight, atol=1e-3)


def test_first_labels_and_the_head_that_learns_from_them(planted):
    head, labels = first_head(planted)
    assert labels.dtype == torch.int16 and len(labels) == 40 * 48
    assert right(planted, labels) > 0.85
    again = label_by_head(planted, head, power=8.0, confidence=0.0)
    assert right(planted, again) > 0.85
    sure = label_by_head(planted, head, power=8.0, confidence=0.9)
    assert (sure == IGNORED).any() and set(sure[sure != IGNORED].tolist()) <= {0, 1, 2, 3}


def test_images_without_a_class_are_background(planted):
    negative = Planted()
    negative.targets[:] = 0
    layer = Linear(torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES))
    settings = {"power": 4.0, "floor": 0.05, "below": 0.38, "above": 0.55}
    assert not label_by_maps(negative, layer, Linear(torch.zeros(1, WIDTH), torch.zeros(1)), **settings).any()
    with pytest.raises(ValueError, match="no patch has a pseudo label"):
        fit_patches(
            planted, torch.full((40 * 48,), IGNORED), steps=1, batch_patches=9, lr=1.0, weight_decay=0.0, seed=0
        )


def test_expectation_maximization_mends_bad_first_labels(planted):
    """Labels that take ground in: margins take it back, and the next head is better."""
    labels = torch.stack(planted.truth).flatten(1)
    ground = (labels == 0) & (torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.6)
    labels = torch.where(ground, labels.amax(dim=1, keepdim=True), labels).flatten()
    head = fit_patches(planted, labels, steps=100, batch_patches=256, lr=1e-2, weight_decay=0.01, seed=0)
    counts = margin_counts(planted, head, 8.0, truth=planted.shares)
    margins = best_margins(counts)
    before = label_by_head(planted, head, power=8.0, confidence=0.0)
    labels = label_by_head(planted, lowered(head, margins), power=8.0, confidence=0.6)
    head = fit_patches(planted, labels, steps=100, batch_patches=256, lr=1e-2, weight_decay=0.01, seed=0)
    after = label_by_head(planted, head, power=8.0, confidence=0.0)
    assert right(planted, after) > max(right(planted, before), 0.95)


def test_margins_part_two_groups():
    counts = torch.zeros(2, 4, 64, dtype=torch.int64)
    counts[0, 0, 8:12], counts[1, 0, 44:48] = 100, 50  # at -2.75 and 1.75
    counts[0, 1, 40:44], counts[1, 1, 44:48] = 100, 50  # side by side, at 1.25 and 1.75
    counts[0, 2, 0], counts[1, 2, 0] = 7, 7  # all below the range: nothing can part them
    best, otsu = best_margins(counts), otsu_margins(counts)
    assert -2.5 <= best[0] <= 1.5 and best[1] == 1.5 and best[3] == otsu[3] == 0
    assert best[0] == 0  # the nearest to zero of those that are equal
    assert -2.5 <= otsu[0] <= 1.5 and 1.25 <= otsu[1] <= 1.75 and otsu.isfinite().all()


def test_counts_are_those_of_the_images_that_show_the_class(planted):
    head, _ = first_head(planted)
    counts = margin_counts(planted, head, 0.0, truth=planted.shares)
    shown = planted.targets.sum(dim=0)
    assert torch.equal(counts.sum(dim=(0, 2)), (shown * 48).long())
    assert torch.equal(counts[1].sum(dim=1), (shown * 12).long())
    few = margin_counts(planted, head, 0.0, every=3)
    assert not few[1].any() and few[0].sum(dim=1).tolist() == [14 * 48, 0, 0]


def test_margins_lower_a_class_and_probabilities_stay_probabilities():
    head = Linear(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(4))
    x = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    less = lowered(head, torch.tensor([1.0, 9.0, 0.0]))
    for shares in (posterior(head, x, [0, 2], 8.0), posterior(less, x, [0, 2], 8.0)):
        assert shares.shape == (3, 20) and torch.allclose(shares.sum(dim=0), torch.ones(20))
    plain, low = posterior(head, x, [0, 2], 0.0), posterior(less, x, [0, 2], 0.0)
    ratio = (low[1] / low[0]) / (plain[1] / plain[0])
    assert torch.allclose(ratio, torch.full((20,), math.exp(-1)), rtol=1e-4)


def test_the_background_and_the_margins_become_part_of_the_bias():
    g = torch.Generator().manual_seed(0)
    head, margins = Linear(torch.randn(4, 16, generator=g), torch.randn(4, generator=g)), torch.randn(3, generator=g)
    x = torch.randn(50, 16, generator=g)
    conv = fold_background(head, margins)
    folded = conv(x.T[None, :, None])[0, :, 0].T
    logits = head(x)
    assert torch.allclose(torch.cat([torch.zeros(50, 1), folded + margins], 1).softmax(1), logits.softmax(1), atol=1e-5)
    expected = torch.cat([logits[:, :1], logits[:, 1:] - margins], dim=1).argmax(dim=1)
    assert torch.equal(torch.cat([torch.zeros(50, 1), folded], dim=1).argmax(dim=1), expected)
    assert (expected == 0).any() and (expected > 0).any()


def test_a_run_repeats_and_resumes(folder):  # noqa: F811
    photos, done = photos_of(folder), []

    def watched(items, first, total, status):
        done.append(status())
        return items

    def train(out, recipe=QUICK, **options):
        done.clear()
        model = tiny_model(photos.class_names).vit
        return train_frozen(model, photos, folder / out, recipe, progress=watched, **options)

    model = train("run")
    assert done == ["", "first labels", "head", "margins", "next labels", "head", "margins"]
    assert (model.activation, model.spread, model.classifier_kind, model.whole) == ("softmax", 8.0, "tokens", True)
    assert not model.training and model.head.weight[:, :, 1, 1].any() and not model.head.weight[:, :, 0].any()
    again = CRT.from_pretrained(folder / "run/model")
    assert torch.equal(again.head.weight, model.head.weight) and torch.equal(again.head.bias, model.head.bias)
    assert torch.equal(again.classifier.weight, model.classifier.weight) and model.classifier.weight.any()
    assert torch.equal(train("second").head.bias, model.head.bias)
    assert not torch.equal(train("third", seed=1).head.weight, model.head.weight)
    assert torch.equal(train("run").head.bias, model.head.bias) and done == []
    (folder / "run/labels-1.safetensors").write_bytes(b"half")
    assert torch.equal(train("run").head.bias, model.head.bias) and done == ["next labels"]
    train("run", dataclasses.replace(QUICK, round_steps=41))
    assert done == ["head", "margins"]


def test_margins_of_the_result_alone_leave_the_labels_as_they_are(folder, masked):  # noqa: F811
    def train(margins, truth):
        model = tiny_model(["blue", "green", "red"]).vit
        recipe = dataclasses.replace(QUICK, margins=margins)
        train_frozen(model, photos_of(folder), folder / margins, recipe, truth=truth)
        return [load_file(folder / margins / f"{name}.safetensors") for name in ("labels-1", "head-1", "margins-1")]

    (labels, head, margins), (same_labels, same_head, others) = train("otsu", None), train("tuned-last", masked)
    assert torch.equal(labels["labels"], same_labels["labels"]) and torch.equal(head["weight"], same_head["weight"])
    assert not torch.equal(margins["margins"], others["margins"])


def test_a_class_in_all_images_or_in_none_is_refused(folder):  # noqa: F811
    photos, model = photos_of(folder), tiny_model(["blue", "green", "red"]).vit
    for labels, message in [([0], "all 24 photos show 'blue'"), ([1], "no photo shows 'blue', 'red'")]:
        given = ImageDataset([photo._replace(labels=labels) for photo in photos], photos.class_names)
        with pytest.raises(ValueError, match=message):
            train_frozen(model, given, folder / "run", QUICK)
        with pytest.raises(ValueError, match=message):
            train_head(FeatureCache(model, given, folder / "features"), HeadRecipe(epochs=1))
    head = train_head(FeatureCache(model, given, folder / "features"), HeadRecipe(epochs=1), force=True)
    assert head.weight.isfinite().all()


def test_margins_are_tuned_on_masks(folder, masked):  # noqa: F811
    photos, model = photos_of(folder), tiny_model(["blue", "green", "red"]).vit
    recipe = dataclasses.replace(QUICK, margins="tuned")
    train_frozen(model, photos, folder / "run", recipe, truth=masked)
    assert (folder / "run/truth/00000.safetensors").exists() and model.head.bias.isfinite().all()
    for changed, given, message in [
        (recipe, None, "need truth"),
        (QUICK, masked, '"otsu" takes none'),
        (recipe, SimpleNamespace(class_names=["a"]), "truth has the classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_frozen(model, photos, folder / "run", changed, truth=given)
    with pytest.raises(ValueError, match="the model has 2 classes"):
        train_frozen(CRT("vit_tiny_patch16_224", num_classes=2), photos, folder / "run", QUICK)


def test_recipes():
    assert make_recipe("s16-voc9k", ["rounds=3"]).rounds == 3
    for change, message in [
        ("margins=best", "one of otsu, tuned, tuned-last"),
        ("object_above=0.2", "at most object_above, 0.2"),
        ("spread=-1", "from 0 to 100"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_recipe("s16-voc9k", [change])


def test_command(folder, voc):  # noqa: F811
    names = ("steps=20", "head_steps=20", "round_steps=20", "batch_patches=64", "token_steps=5", "batch_size=2")
    few = [part for name in names for part in ("--set", name)]
    data = ["--images", str(folder / "photos"), "--labels", str(folder / "labels.csv")]
    tiny_model(["blue", "green", "red"]).vit.save_pretrained(folder / "start")
    command = ["train", "frozen", *data, "--start", str(folder / "start"), *few, "--out", str(folder / "run")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "3 classes" in done.output, done.output
    assert CRT.from_pretrained(folder / "run/model").activation == "softmax"
    done = CliRunner().invoke(app, [*command, "--tune-list", "train"])
    assert done.exit_code == 2 and "--tune-list" in done.output
    data = ["--voc", str(voc), "--list", "train", "--tune-list", "train", "--force"]
    command = ["train", "frozen", *data, "--start", str(folder / "start"), *few, "--out", str(folder / "tuned")]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert len(CRT.from_pretrained(folder / "tuned/model").class_names) == 20
