"""The numbers in the documentation are those of the records."""

import importlib.util
from pathlib import Path

import crt

ROOT = Path(__file__).parents[1]


def load_results():
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    return results


def test_tables_are_made_from_the_records():
    results = load_results()
    assert len(results.table().splitlines()) > 2
    for page in results.PAGES:
        assert results.table() in page.read_text(), f"{page.name}: run python benchmarks/results.py"


def test_pages_are_as_the_records_make_them():
    results = load_results()
    for page in [*results.PAGES, results.SPEED]:
        text = page.read_text()
        assert text == results.filled(text), f"{page.name}: run python benchmarks/results.py"
    assert all(f"<!-- {name} -->" in results.SPEED.read_text() for name in results.TABLES if name != "seeds")


def test_the_bundled_threshold_is_the_best_on_train():
    model = crt.create_model("crt_vit_t16", pretrained=True)
    assert f"{model.seed_threshold:.3f}" == load_results().chosen_threshold("crt_vit_t16.voc9k")


def test_the_model_card_has_the_same_numbers():
    results = load_results()
    card = (ROOT / "crt" / "weights" / "crt_vit_t16.voc9k" / "README.md").read_text()
    for record in results.records():
        if record["scales"] != [0.5, 1.0, 1.5]:
            continue
        share = record["curve"][results.chosen_threshold(record["model"])]
        assert f"| {record['photos']} | {100 * share:.1f} |" in card
