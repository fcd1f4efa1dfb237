import pytest
import torch

from klprobe.evaluation.feature_net import FeatureNet, fit, raw_values, read_net, unit_range
from klprobe.types import InputError

SHAPE = (3, 4, 4)


def net(seen, shape=SHAPE, value_range=(0.0, 1.0), digest="a"):
    """Mean of each channel as features; remembers what it was given."""

    def look(x):
        seen.append(x)
        return x.mean((2, 3)), None

    return FeatureNet("a net", digest, look, shape, value_range)


def images(n=7, shape=SHAPE):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def test_grey_images_are_given_as_three_channels_and_said():
    x, notes = fit(images(shape=(1, 4, 4)), net([]))
    assert x.shape == (7, 3, 4, 4)
    assert torch.equal(x[:, 0], x[:, 2])
    assert "three equal channels" in notes[0]


def test_images_of_another_range_are_detected_and_said():
    x = images()
    for given, words in ((2 * x - 1, "[-1, 1]"), (255 * x, "[0, 255]")):
        found, (note,) = fit(given, net([]))
        torch.testing.assert_close(found, x)
        assert words in note
    found, notes = fit(x, net([], value_range=(-1.0, 1.0)))
    torch.testing.assert_close(found, 2 * x - 1)
    assert notes == ()


def test_an_unknown_range_is_refused_and_a_net_trained_on_the_data_takes_any():
    x = images()
    for odd in (6 * x - 3, 1000 * x, x - 5):
        with pytest.raises(InputError, match="not a range that klprobe knows"):
            fit(odd, net([]))
        assert torch.equal(fit(odd, net([], value_range=None))[0], odd)
    assert unit_range(1.2 * x - 0.1) == (0, 1)
    assert unit_range(2.4 * x - 1.2) == (-1, 1)
    assert unit_range(300 * x - 20) == (0, 255)


def test_other_sizes_and_colours_are_converted_and_what_does_not_fit_is_refused():
    x, notes = fit(images(shape=(3, 8, 8)), net([], shape=(1, 4, 4)))
    assert x.shape == (7, 1, 4, 4)
    assert len(notes) == 2
    assert "8 x 8 pixels" in notes[1]
    with pytest.raises(InputError, match="another --net"):
        fit(torch.zeros(3, 9), net([]))


def test_the_cache_knows_points_and_net_and_nothing_is_looked_at_twice(tmp_path):
    seen = []
    x = images()
    first, _ = net(seen).features(x, tmp_path)
    again, _ = net(seen).features(x.clone(), tmp_path)
    assert len(seen) == 1
    assert torch.equal(first.values, again.values)
    assert again.net == "a net"
    assert again.logits is None
    net(seen).features(x + 1e-6, tmp_path)
    net(seen, digest="b").features(x, tmp_path)
    net(seen).features(x)
    assert len(seen) == 4
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_a_damaged_file_in_the_cache_is_made_again(tmp_path, keep):
    seen, x = [], images()
    first, _ = net(seen).features(x, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    again, _ = net(seen).features(x, tmp_path)
    assert torch.equal(first.values, again.values)
    assert len(seen) == 2
    net(seen).features(x, tmp_path)
    assert len(seen) == 2


def test_features_are_float64_and_broken_nets_are_refused():
    found, _ = net([]).features(images(n=1001))
    assert found.values.dtype == torch.float64
    assert found.values.shape == (1001, 3)
    with pytest.raises(InputError, match="not finite"):
        FeatureNet("a net", "c", lambda x: (x / 0 - x / 0, None)).features(images())


def test_without_a_net_the_values_are_the_features_and_are_not_kept(tmp_path):
    x = images()
    assert torch.equal(raw_values().features(x, tmp_path)[0].values, x.flatten(1).double())
    assert not list(tmp_path.iterdir())


class Judge(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1), x.mean((2, 3))


class Logits(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def test_torchscript_gives_features_and_logits_or_logits_alone(tmp_path):
    x = images()
    for module, dim in ((Judge(), 48), (Logits(), 3)):
        torch.jit.script(module).save(tmp_path / "net.pt")
        found, _ = read_net(tmp_path / "net.pt", "cpu", SHAPE).features(x)
        assert found.values.shape == (7, dim)
        torch.testing.assert_close(found.logits, x.mean((2, 3)).double())
        assert found.net.startswith("net.pt (")


def test_what_is_no_net_is_refused(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="neither a checkpoint"):
        read_net(tmp_path / "net.pt", "cpu")
    with pytest.raises(InputError, match="no net"):
        read_net(tmp_path / "nowhere.pt", "cpu")
