"""What holds of every data set, and of the names that carry settings."""

import dataclasses

import pytest
import torch

from klprobe import registry
from klprobe.datasets import Dataset, dataset, has_validation
from klprobe.types import InputError

NAMES = registry.names("datasets")
ON_DISK = tuple(name for name in NAMES if registry.load("datasets", name).locate is not Dataset.locate)
EMBEDDED = tuple(name for name in NAMES if name not in ON_DISK)
ONES_OWN = tuple(
    name for name in ON_DISK if "path" in {field.name for field in dataclasses.fields(registry.load("datasets", name))}
)
"""Files whose place the user gives: they lie in no folder of data sets."""


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_is_a_frozen_dataclass_whose_settings_all_have_default_values(name):
    chosen = registry.create("datasets", name)
    assert chosen == registry.load("datasets", name)()
    assert registry.spec(chosen) == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.anything = 1
    for field in dataclasses.fields(chosen):
        assert field.type in ("int", "bool", "str"), "a name on the command line can carry these"


@pytest.mark.parametrize("name", NAMES)
def test_downloads_have_an_https_address_first_unless_none_and_a_sha256(name):
    for download in registry.load("datasets", name)().downloads:
        assert download.urls[0].startswith("https://")
        assert all(url.rsplit("/", 1)[1] == download.path.rsplit("/", 1)[1] for url in download.urls)
        assert len(download.sha256) == 64
        assert set(download.sha256) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", sorted(set(ON_DISK) - set(ONES_OWN)))
def test_a_missing_set_says_where_it_is_looked_for_and_how_to_come_by_it(name, tmp_path):
    chosen = registry.create("datasets", name)
    for ask in (chosen.locate, lambda root: chosen.load("train", root)):
        with pytest.raises(InputError, match="KLPROBE_DATA") as caught:
            ask(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert ("klprobe data fetch" in str(caught.value)) == bool(chosen.downloads)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_set_can_do_is_declared(name, tmp_path):
    """Nobody looks whether there is an attribute: a set of another kind says None."""
    chosen = registry.create("datasets", name)
    assert Dataset in type(chosen).__mro__
    assert (chosen.path is None) == (name not in ONES_OWN)
    assert (chosen.centres is None) == (chosen.std is None) == (name not in ("ring", "grid"))
    assert chosen.strict is None or chosen.strict is False
    assert (chosen.locate(tmp_path) is None) if name in EMBEDDED else True
    assert type(chosen.only_reading()).load is type(chosen).load


def test_the_registry_has_sets_of_each_of_the_three_kinds():
    assert EMBEDDED
    assert ONES_OWN
    assert set(ON_DISK) > set(ONES_OWN)


@pytest.mark.parametrize("name", NAMES)
def test_a_set_needs_files_if_and_only_if_it_can_locate_them(name, tmp_path):
    """What has no `locate` loads from an empty folder and has nothing to fetch; what has one does not load from there."""
    chosen = registry.create("datasets", name)
    if name in EMBEDDED:
        assert not chosen.downloads
        assert len(chosen.load("train", tmp_path)) > 0
    else:
        with pytest.raises(InputError):
            chosen.load("train", tmp_path)


@pytest.mark.parametrize("name", EMBEDDED)
def test_what_needs_no_files_is_the_same_every_time_and_all_is_train_then_test(name):
    train, test, everything = (registry.create("datasets", name).load(split) for split in ("train", "test", "all"))
    assert (train.name, train.split) == (name, "train")
    assert torch.equal(everything.x, torch.cat([train.x, test.x]))
    assert torch.equal(registry.create("datasets", name).load("train").x, train.x)
    with pytest.raises(InputError, match="known: train, validation, test, all"):
        registry.create("datasets", name).load("half")


@pytest.mark.parametrize("name", EMBEDDED)
def test_validation_is_kept_of_the_training_points_and_the_other_splits_stay(name):
    """Train and validation are train in two parts, each in its order; labels stay with their points."""
    plain, kept = registry.create("datasets", name), registry.create("datasets", f"{name}:validation=100")
    whole, train, validation = plain.load("train"), kept.load("train"), kept.load("validation")
    assert (len(train), len(validation), validation.split) == (len(whole) - 100, 100, "validation")
    assert train.name == validation.name == f"{name}:validation=100"
    known = {tuple(point.tolist()): i for i, point in enumerate(whole.x)}
    where = [[known[tuple(point.tolist())] for point in part.x] for part in (train, validation)]
    for which, part in zip(where, (train, validation), strict=True):
        assert whole.labels is None or torch.equal(part.labels, whole.labels[which])
    if len(known) == len(whole):  # no two points are equal
        assert sorted(where[0] + where[1]) == list(range(len(whole)))
        assert all(which == sorted(which) for which in where)
    for split in ("test", "all"):
        assert torch.equal(kept.load(split).x, plain.load(split).x)


def test_every_set_has_a_validation_split_or_says_how_to_keep_one(tmp_path):
    for name in NAMES:
        chosen = registry.create("datasets", name)
        assert has_validation(chosen) == (name == "celeba")
        assert name == "celeba" or has_validation(dataclasses.replace(chosen, validation=5))
    for name, words in (
        ("digits", "digits:validation=1000 keeps 1,000"),
        ("digits:validation=-1", "from 1 to 1,441"),
        ("digits:validation=1442", "from 1 to 1,441"),
    ):
        with pytest.raises(InputError, match=words):
            registry.create("datasets", name).load("validation")


def test_settings_are_read_from_the_name_in_any_order_and_written_back():
    chosen = registry.create("datasets", "image_folder:gray:held-out=3:path=photos")
    assert (chosen.path, chosen.gray, chosen.strict, chosen.held_out) == ("photos", True, False, 3)
    assert registry.spec(chosen) == "image-folder:path=photos:gray:held_out=3"
    assert registry.create("datasets", registry.spec(chosen)) == chosen
    assert registry.create("datasets", "cifar-10:partial=false") == registry.create("datasets", "cifar-10")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("celebb", "Did you mean 'celeba'"),
        ("celeba:width=3", "no setting 'width'; its settings: size, strict, flip, shift"),
        ("mnist:size=3", "its settings: validation"),
        ("celeba:size=big", "size takes a whole number; got 'big'"),
        ("celeba:strict=maybe", "strict takes true or false"),
        ("celeba:size=0", "size from 1 to 148"),
        ("gaussians:dim=0", "dim of at least 1"),
        ("image-folder:path=nowhere", "needs a folder"),
        ("array-file:path=nowhere.npy", "needs a .npy, .npz"),
    ],
)
def test_a_wrong_name_or_setting_is_refused_with_what_there_is(spec, words):
    with pytest.raises(InputError, match=words):
        registry.create("datasets", spec).locate()


def test_a_path_is_a_data_set_and_a_name_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "x.npy").touch()
    assert registry.spec(dataset("mnist")) == "mnist"
    assert registry.spec(dataset("photos")) == "image-folder:path=photos"
    assert registry.spec(dataset("x.npy")) == "array-file:path=x.npy"
    assert registry.spec(dataset("x.npy:held-out=0")) == "array-file:path=x.npy:held_out=0"
    assert dataset("photos:resize=8:gray") == registry.create("datasets", "image-folder:path=photos:resize=8:gray")
    with pytest.raises(InputError, match="no setting 'size'; its settings: path, resize"):
        dataset("photos:size=8")
    (tmp_path / "a:b").mkdir()
    with pytest.raises(InputError, match="has a colon"):
        dataset("a:b")
    with pytest.raises(InputError, match="Unknown name 'potos'"):
        dataset("potos")


@pytest.mark.parametrize("dim", [1, 2, 30])
def test_gaussians_have_the_mean_and_covariance_they_claim(dim):
    """Whitened by the law they claim, points are N(0, I): mean and covariance within 5 standard errors of 0 and I."""
    chosen = registry.create("datasets", f"gaussians:dim={dim}:seed=3")
    data, law = chosen.load("train"), chosen.distribution
    assert (data.shape, data.name) == ((dim,), registry.spec(chosen))
    white = torch.linalg.solve_triangular(law.scale_tril, (data.x.double() - law.loc).T, upper=False)
    n = len(data)
    assert white.mean(1).abs().max() < 5 / n**0.5
    assert (white @ white.T / n - torch.eye(dim)).abs().max() < 5 * (2 / n) ** 0.5
    assert not torch.equal(chosen.load("test").x[:10], data.x[:10])
