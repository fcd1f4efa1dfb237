"""The image items of BMS: what they choose and count, and that they run on CelebA where it is."""

import numpy as np
import pytest
import torch
from PIL import Image

from analyses.bms import figures_2_4_5, image_models, image_scores, image_settings, table_5_figure_3, table_7_8, table_9
from analyses.machinery import cells, models
from klprobe import registry
from klprobe.evaluation.feature_net import FeatureNet
from klprobe.metrics.lpips import LPIPS

ITEMS = (table_5_figure_3, table_7_8, table_9, figures_2_4_5)
NUM = 8


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """CelebA's folder with a few smooth pictures a split, each in its own colour; models are kept beside it."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    colours, lines = np.random.default_rng(0).integers(0, 150, (3 * NUM, 1, 1, 3)), []
    for i, colour in enumerate(colours):
        pixels = np.broadcast_to(np.linspace(0, 100, 178)[None, :, None] + colour, (218, 178, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
        lines.append(f"{i}.jpg {i % 3}\n")
    (folder.parent / "list_eval_partition.txt").write_text("".join(lines))
    monkeypatch.setenv("KLPROBE_DATA", str(tmp_path))
    monkeypatch.setattr(models, "RUNS", tmp_path / "runs")


def small(cell):
    """A step of two images, T = 2."""
    for model in cell.get("models", {"": cell.get("model")}).values():
        model["settings"] = (
            model["settings"] | {"batch_size": 2, "latent_dim": 3} | ({"draws": 2} if "draws" in model["settings"] else {})
        )
        model["steps"] = 1
    return cell


def mean_colours(x):
    return x.mean((2, 3)), None


def test_celeba_cells_run_where_celeba_is(faces, monkeypatch, tmp_path):
    """Every item's cell of BMS-VAE-GAN; the FID's net is three numbers an image, the IvOM one step."""
    monkeypatch.setitem(table_9.SAMPLES, "quick", NUM)
    monkeypatch.setitem(table_5_figure_3.SEARCH, "quick", (NUM, 1, 1))
    monkeypatch.setitem(image_scores.SIZES, "quick", (NUM, NUM, 2, 1))
    monkeypatch.setattr(image_scores, "judge", lambda _: FeatureNet("mean colours", "", mean_colours))
    for module in ITEMS:
        cell = next(
            cell
            for cell in module.cells("quick")
            if cell.get("data", "celeba") == "celeba" and cell.get("row", "BMS-VAE-GAN").startswith("BMS-VAE-GAN")
        )
        record = cells.record_of(module.work, small(cell))
        assert record["failed"] is None
        pages = module.write([record], tmp_path)
        assert "celeba" in str(cell)
        assert all(path.stat().st_size > 100 for path in pages)


def test_without_celeba_every_cell_says_so_and_names_no_folder_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("KLPROBE_DATA", str(tmp_path))
    monkeypatch.setattr(models, "RUNS", tmp_path / "runs")
    for module in ITEMS:
        for cell in module.cells("quick"):
            if "celeba" in str(cell):
                record = cells.record_of(module.work, cell)
                assert record["failed"].startswith("celeba is read from KLPROBE_DATA/celeba, which lacks")
                assert str(tmp_path) not in record["failed"]
                assert cells.reason(record).endswith("lacks img_align_celeba.zip, list_eval_partition.txt")


@pytest.mark.parametrize("row", [*image_settings.TABLES, *image_settings.FACES], ids=lambda row: f"{row.data}, {row.name}")
def test_every_row_is_a_system_with_settings_that_it_has_and_steps_of_the_paper(row):
    for preset in ("tiny", "quick", "paper"):
        model = image_models.model(preset, row)
        registry.load("trainers", model["system"])(**model["settings"])
        assert set(row.settings) <= set(model["settings"])
    assert model["steps"] == (100_000 if row.data == "cifar-10" else 200_000)


def test_the_models_of_the_compared_systems_are_the_same_in_all_items():
    """Each is trained once."""
    by_item = {module: [] for module in ITEMS}
    for module in ITEMS:
        for cell in module.cells("quick"):
            found = cell.get("models", {"": cell.get("model")}).values()
            by_item[module] += [model for model in found if model["dataset"].startswith("cifar-10")]
    assert by_item[table_5_figure_3] == by_item[table_9] == by_item[figures_2_4_5]
    assert len(by_item[table_9]) == 3


def test_leads_are_sorted_and_nearest_counts_every_point_once():
    errors = {
        "a": torch.tensor([1.0, 2.0, 3.0, 1.0]),
        "b": torch.tensor([4.0, 1.0, 5.0, 2.0]),
        "c": torch.tensor([2.0, 0.0, 1.0, 1.0]),
    }
    assert table_5_figure_3.leads(errors, "c").tolist() == [2, 1, 3, 0]  # leads -1, 1, 2, 0
    assert table_5_figure_3.nearest(errors) == {"a": 2, "b": 0, "c": 2}


def test_of_each_cell_of_the_last_preset_the_last_record_counts():
    kept = [
        {"cell": {"preset": p, "n": n}, "v": v}
        for v, (p, n) in enumerate([("quick", 1), ("tiny", 1), ("quick", 2), ("quick", 1)])
    ]
    assert [record["v"] for record in image_models.of_last_preset(kept)] == [2, 3]


def test_the_stand_in_for_alexnet_is_taken_by_lpips_always_the_same_and_gives_way_to_real_weights(tmp_path, monkeypatch):
    """Images of noise lie further apart than their mean greys, which hardly differ."""
    monkeypatch.setenv("KLPROBE_DATA", str(tmp_path / "data"))
    first, again = (table_9.weights(tmp_path / name) for name in ("one", "two"))
    file = "alexnet.safetensors"
    assert (first / file).read_bytes() == (again / file).read_bytes()
    noise = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    grey = noise.mean((1, 2, 3), keepdim=True).expand_as(noise)
    far, near = (LPIPS().measure(x, first, torch.Generator().manual_seed(1))[0].value for x in (noise, grey))
    assert far > 10 * near >= 0
    (tmp_path / "data" / "lpips").mkdir(parents=True)
    assert table_9.weights(tmp_path / "one") == tmp_path / "data" / "lpips"
