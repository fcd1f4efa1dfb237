"""Model folders of scvi-tools: what its own code trained and saved is read without unpickling anything."""

import collections
import pickle

import numpy as np
import pytest
import torch

from klprobe.cli import main
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.formats import Request, load
from klprobe.formats.scvi import CELLS, encode_cells
from klprobe.types import CapabilityError, InputError

REGISTRY = {"model_name": "SCVI", "setup_method_name": "setup_anndata", "setup_args": {}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model that scvi-tools trained, its folder, its cells, and what it says of them itself."""
    pytest.importorskip("scvi", reason="the extra [scvi] is not installed")
    import anndata
    import scvi

    folder = tmp_path_factory.mktemp("scvi")
    draw = np.random.default_rng(0)
    adata = anndata.AnnData(draw.poisson(draw.gamma(2, 1, size=(120, 20))).astype("f4"))
    adata.obs["batch"] = np.array(["a", "b"])[draw.integers(0, 2, 120)]
    before, strings = np.random.get_state(), anndata.settings.allow_write_nullable_strings  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
        model = scvi.model.SCVI(adata, n_latent=3, n_hidden=8)
        model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, logger=False)
        mean, var = model.get_latent_representation(return_dist=True)
        anndata.settings.allow_write_nullable_strings = True  # pandas 3 has no other strings
        model.save(str(folder / "model"), save_anndata=True)
    anndata.settings.allow_write_nullable_strings = strings
    np.random.set_state(before)  # noqa: NPY002
    return folder / "model", mean, var


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
            encode_cells(str(trained[0]), str(trained[0] / CELLS), "cpu", str(tmp_path))
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
