"""Model folders of scvi-tools: what its own code trained and saved is read without unpickling anything."""

import collections
import pickle

import numpy as np
import pytest
import torch

from klprobe.cli import main
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.formats import Request, load
from klprobe.formats.scvi import CELLS, KNOWN, MODEL, encode_cells
from klprobe.types import CapabilityError, InputError

REGISTRY = {"model_name": "SCVI", "setup_method_name": "setup_anndata", "setup_args": {}}


FAMILIES = ("SCVI", "LinearSCVI", "AUTOZI", "PEAKVI")


def train(name, folder, *, prefix=None, **settings):
    """A tiny model that scvi-tools trained for an epoch, as a user does; its folder, and what it says of its cells."""
    pytest.importorskip("scvi", reason="the extra [scvi] is not installed")
    import anndata
    import scvi

    draw = np.random.default_rng(0)
    adata = anndata.AnnData(draw.poisson(draw.gamma(2, 1, size=(120, 20))).astype("f4"))
    adata.obs["batch"] = np.array(["a", "b"])[draw.integers(0, 2, 120)]
    before, strings = np.random.get_state(), anndata.settings.allow_write_nullable_strings  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = getattr(scvi.model, name)
        kind.setup_anndata(adata, batch_key="batch")
        model = kind(adata, n_latent=3, n_hidden=8, **settings)
        model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        mean, var = model.get_latent_representation(return_dist=True)
        anndata.settings.allow_write_nullable_strings = True  # where pandas 3 is installed, which has no other strings
        model.save(str(folder / "model"), save_anndata=True, prefix=prefix)
    anndata.settings.allow_write_nullable_strings = strings
    np.random.set_state(before)  # noqa: NPY002
    return folder / "model", mean, var


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("SCVI", tmp_path_factory.mktemp("scvi"))


def test_the_trained_model_holds_its_history_as_pandas_tables(trained):
    asked = torch.serialization.get_unsafe_globals_in_checkpoint(str(trained[0] / "model.pt"))
    assert any(name.endswith("DataFrame") for name in asked), "or this file tests models that nobody trained"


@pytest.mark.parametrize(
    "name", [name if name == "LinearSCVI" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_every_family_is_read_as_it_says_itself(name, tmp_path):
    assert set(FAMILIES) == set(KNOWN)
    folder, mean, var = train(name, tmp_path)
    encoded = load(folder)
    found, std = encoded.posterior.rows(slice(None))
    np.testing.assert_allclose(found.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std.square().numpy(), var, rtol=1e-5)
    assert encoded.provenance["model"] == name


def test_a_scvi_folder_gives_what_the_model_gives(trained, tmp_path, capsys):
    folder, mean, var = trained
    encoded = load(folder)
    assert isinstance(encoded.posterior, DiagonalGaussian)
    found, std = encoded.posterior.rows(slice(None))
    np.testing.assert_allclose(found.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(std.square().numpy(), var, rtol=1e-5)
    assert encoded.provenance["model"] == "SCVI"
    elsewhere = tmp_path / "cells.h5ad"
    elsewhere.write_bytes((folder / "adata.h5ad").read_bytes())
    again = load(folder, Request(data=str(elsewhere)))
    np.testing.assert_array_equal(again.posterior.mean.numpy(), encoded.posterior.mean.numpy())
    assert capsys.readouterr().out == "", "scvi-tools logs to stdout, where the answer goes"


def test_genes_in_another_order_are_put_in_the_models_and_missing_ones_are_named(trained, tmp_path):
    """Of another order scvi-tools warns and goes on, with the wrong genes."""
    import anndata

    folder, mean, _ = trained
    cells = anndata.read_h5ad(folder / "adata.h5ad")
    strings = anndata.settings.allow_write_nullable_strings
    anndata.settings.allow_write_nullable_strings = True
    cells[:, ::-1].copy().write_h5ad(tmp_path / "turned.h5ad")
    cells[:, :19].copy().write_h5ad(tmp_path / "fewer.h5ad")
    anndata.settings.allow_write_nullable_strings = strings
    encoded = load(folder, Request(data=str(tmp_path / "turned.h5ad")))
    np.testing.assert_allclose(encoded.posterior.mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    assert any("put in the model's order" in note for note in encoded.notes)
    with pytest.raises(InputError, match=r"lacks 1 of the model's 20 genes, the first of them '19'"):
        load(folder, Request(data=str(tmp_path / "fewer.h5ad")))


def test_a_prefix_and_a_logistic_normal_are_followed_and_said(tmp_path):
    folder, mean, _ = train("SCVI", tmp_path, prefix="mine_", latent_distribution="ln")
    assert not (folder / "model.pt").exists()
    encoded = load(folder)
    np.testing.assert_allclose(encoded.posterior.mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    assert any("z is the softmax of what is taken here" in note for note in encoded.notes)


def test_the_program_estimates_it(trained, capsys):
    assert main(["estimate", "--checkpoint", str(trained[0]), "--methods", "monte-carlo", "--num-samples", "100"]) == 0
    out, err = capsys.readouterr()
    assert "N = 120 points, D = 3 latents" in out
    assert "without the library size" in err


def test_nothing_of_the_file_reaches_the_full_unpickler(trained, tmp_path, monkeypatch):
    """Every whole unpickling, scvi-tools' own, is of a file that is not the one given."""
    opened, whole = [], torch.load

    def watch(file, *args, weights_only=None, **kwargs):
        opened.append((str(file), weights_only))
        return whole(file, *args, weights_only=weights_only, **kwargs)

    monkeypatch.setattr(torch, "load", watch)
    numpys = np.random.get_state()  # noqa: NPY002 (put back below: importing scvi-tools moves it)
    try:
        with torch.random.fork_rng():
            encode_cells(str(trained[0] / MODEL), str(trained[0] / CELLS), "cpu", str(tmp_path))
    finally:
        np.random.set_state(numpys)  # noqa: NPY002
    assert (str(trained[0] / "model.pt"), True) in opened
    assert not [file for file, weights_only in opened if not weights_only and file.startswith(str(trained[0]))]


def test_cells_that_do_not_fit_are_refused(trained, tmp_path):
    (tmp_path / "cells.h5ad").write_bytes(b"no cells")
    with pytest.raises(InputError, match=r"cells.h5ad is damaged, or is not an HDF5 file"):
        load(trained[0], Request(data=str(tmp_path / "cells.h5ad")))


# ---- what needs no scvi-tools: the file is looked at before it is imported


def write(folder, **changes):
    held = {
        "model_state_dict": {"z_encoder.weight": torch.zeros(8, 20)},
        "var_names": np.array(["0", "1"], dtype=object),
        "attr_dict": {"registry_": REGISTRY, "init_params_": {"non_kwargs": {"n_hidden": 8}, "kwargs": {}}},
    }
    torch.save({**held, **changes}, folder / "model.pt")
    (folder / "adata.h5ad").touch()
    return folder


def test_a_malicious_model_runs_nothing_even_with_the_flag_for_pickles(tmp_path, malice, capsys):
    write(tmp_path, var_names=malice)
    for flags in ([], ["--allow-pickle"]):
        assert main(["estimate", "--checkpoint", str(tmp_path), *flags]) == 2
        assert "asks Python for more than arrays" in capsys.readouterr().err
    (tmp_path / "model.pt").write_bytes(pickle.dumps(malice))
    assert main(["estimate", "--checkpoint", str(tmp_path)]) == 2
    assert not malice.mark.exists()


class Table:
    """What asks pandas to read a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        import pandas

        return pandas.read_csv, (self.file,)


def test_a_table_of_pandas_stays_closed_and_outside_the_history_is_refused(tmp_path, monkeypatch):
    """Even a function of pandas that opens files is named and never called."""
    mark = tmp_path / "mark.csv"
    mark.write_text("a,b")
    calls = []
    import pandas.io.parsers

    monkeypatch.setattr(pandas.io.parsers.readers, "_read", lambda *args: calls.append(args))
    table = Table(str(mark))
    attributes = {"registry_": REGISTRY, "history_": {"loss": table}, "init_params_": {"non_kwargs": {"n_hidden": 8}}}
    from klprobe.formats.scvi import _restricted

    write(tmp_path, attr_dict=attributes)
    held = _restricted(tmp_path / "model.pt")
    assert "history_" not in held["attr_dict"]
    write(tmp_path, attr_dict={**attributes, "other": [table]})
    with pytest.raises(InputError, match="asks Python for more than arrays"):
        _restricted(tmp_path / "model.pt")
    assert not calls


def test_a_folder_with_another_model_in_it_is_not_taken_for_scvi_tools(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"without mean.npy.*") as caught:
        load(tmp_path)
    assert "scvi" not in str(caught.value)


def test_numpys_arrays_and_numbers_are_read_and_a_defaultdict_is_a_dict(tmp_path):
    from klprobe.formats.scvi import _restricted

    fields = collections.defaultdict(dict, {"X": {"names": np.array(["a", "b"], dtype=object), "n": np.int64(3)}})
    kinds = {f"{i}": np.zeros(2, dtype) for i, dtype in enumerate(("?", "i8", "f4", "f8", "<U7", "S3"))}
    registry = {**REGISTRY, "field_registries": fields, **kinds}
    write(tmp_path, attr_dict={"registry_": registry})
    held = _restricted(tmp_path / "model.pt")["attr_dict"]["registry_"]
    assert type(held["field_registries"]) is dict
    assert held["field_registries"]["X"]["names"].tolist() == ["a", "b"]
    assert held["field_registries"]["X"]["n"] == 3
    for name, array in kinds.items():
        np.testing.assert_array_equal(held[name], array)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"attr_dict": {"registry_": {**REGISTRY, "model_name": "TOTALVI"}}}, CapabilityError, "TOTALVI.*return_dist=True"),
        ({"attr_dict": {"registry_": {**REGISTRY, "setup_method_name": "load"}}}, InputError, "follows setup_anndata alone"),
        ({"attr_dict": {}}, CapabilityError, "None"),
        ({"attr_dict": 3}, InputError, "not a model folder of scvi-tools"),
        (
            {"attr_dict": {"registry_": REGISTRY, "init_params_": {"non_kwargs": {"n_hidden": 10**9}}}},
            InputError,
            "claims a size of 1,000,000,000",
        ),
    ],
)
def test_folders_that_cannot_be_followed_say_why(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        load(write(tmp_path, **changes))


class Huge:
    """8 GB by a call that torch's restricted unpickler allows, since arrays are made by it."""

    def __reduce__(self):
        return np.ndarray, ((10**9,),)


def test_an_array_of_a_size_that_the_file_does_not_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match="damaged"):
        load(write(tmp_path, var_names=Huge()))


def test_cells_are_needed_and_flags_for_images_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "adata.h5ad").unlink()
    with pytest.raises(InputError, match=r"--data cells.h5ad"):
        load(tmp_path)
    with pytest.raises(InputError, match="do not give --gray"):
        load(tmp_path, Request(gray=True))
    with pytest.raises(InputError, match="--split test"):
        load(tmp_path, Request(split="test"))


def test_a_file_cut_short_is_damaged(tmp_path):
    write(tmp_path)
    (tmp_path / "model.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-50])
    with pytest.raises(InputError, match="damaged"):
        load(tmp_path)
