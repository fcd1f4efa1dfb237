"""Several arrays of one length: read by name, whole numbers whole, and refused where they do not fit together."""

import numpy as np
import pytest
import torch

from klprobe.runtime.named_rows import in_npz, in_object
from klprobe.types import InputError

X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2], np.uint8)


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y, short=Y[:5], words=np.array(["a"] * 6), bad=np.where(Y == 1, np.nan, 1.0))
    return tmp_path / "data.npz"


def test_the_wanted_arrays_are_read_and_stay_what_they_are(path):
    offer = in_npz(path)
    assert set(offer.names) == {"x", "y", "short", "words", "bad"}
    rows = offer.rows(["x", "y"])
    found = rows.fetch(1, 4)
    assert rows.length == 6
    assert torch.equal(found["x"], torch.from_numpy(X[1:4]))
    assert torch.equal(found["y"], torch.from_numpy(Y[1:4]))
    assert torch.equal(rows.some(torch.tensor([5, 0]))["y"], torch.from_numpy(Y[[5, 0]]))


@pytest.mark.parametrize(("wanted", "said"), [("short", "'x' has 6, 'short' has 5"), ("words", "words"), ("bad", "at point 1")])
def test_what_does_not_fit_is_refused_when_it_is_wanted(path, wanted, said):
    with pytest.raises(InputError, match=said):
        in_npz(path).rows(["x", wanted]).fetch(0, 6)


def test_items_of_different_shapes_are_refused_with_the_cure():
    offer = in_object([(X[i][: 1 + i % 2], Y[i]) for i in range(6)], "data")
    assert offer.names == ("0", "1")
    with pytest.raises(InputError, match="pad them, and give lengths"):
        offer.rows(["0", "1"]).fetch(0, 6)


@pytest.mark.parametrize("one", [X, torch.from_numpy(X), list(X), [], "x", 3])
def test_one_array_alone_has_no_names(one):
    assert in_object(one, "data") is None
