"""Files of every released version are read as they were: `tests/released/VERSION` holds one of each kind, and stays."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import torch

import klprobe
from klprobe import registry
from klprobe.cli.prior import parse_prior
from klprobe.files import tensor_file
from klprobe.formats import load
from klprobe.runtime import partial
from klprobe.runtime.partial import Keeper
from klprobe.types import InputError

FOLDERS = sorted(path for path in (pathlib.Path(__file__).parent / "released").iterdir() if path.is_dir())
KINDS = ("posterior.npz", "checkpoint.safetensors", "flow.safetensors", "monte-carlo.partial.npz", "report.json")
by_version = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@by_version
def test_a_released_version_has_one_file_of_each_kind(folder):
    assert {path.name for path in folder.iterdir()} == set(KINDS)


@by_version
def test_its_posteriors_and_checkpoints_are_read(folder):
    assert load(folder / "posterior.npz").posterior.batch_shape == (60,)
    assert load(folder / "checkpoint.safetensors").posterior.batch_shape[0] > 1000


@by_version
def test_its_priors_are_read(folder):
    prior = parse_prior(f"flow:{folder / 'flow.safetensors'}", 2, None, lambda path: None)
    assert torch.isfinite(prior.log_prob(torch.zeros(3, 2, dtype=torch.float64))).all()


@by_version
def test_its_draws_are_taken_up(folder):
    path = folder / "monte-carlo.partial.npz"
    with np.load(path) as archive:
        fingerprint = json.loads(str(archive["fingerprint"]))
    assert len(Keeper(path, fingerprint).load()["points"]) == 100


@by_version
def test_nothing_that_its_reports_hold_is_missing_from_todays(folder):
    before = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    mean = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    posterior = klprobe.DiagonalGaussian(mean, logvar=torch.full_like(mean, -1.0))
    now = klprobe.estimate(posterior, methods=["monte-carlo"]).to_dict()
    assert before["schema"] == now["schema"]
    assert set(before) <= set(now) | {key for key in before if key.endswith("_reason")}
    assert set(before["estimates"][0]) <= set(now["estimates"][0]) | {"reason"}
    assert set(before["brackets"]["population"]) <= set(now["brackets"]["population"])


def test_a_file_of_a_later_version_is_refused_with_what_to_do(tmp_path, monkeypatch):
    source = FOLDERS[-1]
    monkeypatch.setattr(tensor_file, "VERSION", "2")
    tensor_file.write(tmp_path / "flow.safetensors", {"a": torch.zeros(2)}, {}, kind="flow")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"klprobe.version = '2', and this klprobe reads version 1: update klprobe"):
        parse_prior(f"flow:{tmp_path / 'flow.safetensors'}", 2, None, lambda path: None)
    with pytest.raises(InputError, match=r"update klprobe"):
        load(tmp_path / "flow.safetensors")
    shutil.copy(source / "monte-carlo.partial.npz", tmp_path)
    monkeypatch.setattr(partial, "VERSION", "0")
    with pytest.raises(InputError, match=r"version '?1'?, and this klprobe reads version 0: delete it"):
        Keeper(tmp_path / "monte-carlo.partial.npz", {}).load()


def test_a_former_name_is_taken_for_one_release_with_a_warning(monkeypatch):
    monkeypatch.setitem(registry.RENAMED, ("estimators", "former"), "monte-carlo")
    with pytest.warns(FutureWarning, match="'former' is now called 'monte-carlo'"):
        assert registry.load("estimators", "former") is registry.load("estimators", "monte-carlo")
    monkeypatch.setitem(klprobe._RENAMED, "Former", "DiagonalGaussian")
    with pytest.warns(FutureWarning, match="klprobe.Former is now klprobe.DiagonalGaussian"):
        assert klprobe.Former is klprobe.DiagonalGaussian
