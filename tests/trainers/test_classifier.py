import csv
import dataclasses

import pytest
import torch
from torch import nn

from klprobe import registry
from klprobe.cli import main
from klprobe.trainers.classifier import CROP, Classifier, DecayedSGD, random_crops
from klprobe.training.checkpoint import load_checkpoint, read
from klprobe.training.loop import train
from klprobe.types import InputError


@pytest.fixture(scope="module")
def digits():
    return registry.load("datasets", "digits")().load("train")


def test_it_learns_digits_and_comes_back_with_features_and_classes(digits, tmp_path):
    path = train(Classifier(features=16, width=64), digits, steps=150, out=tmp_path)
    trained = load_checkpoint(path)
    test = registry.load("datasets", "digits")().load("test")
    with torch.no_grad():
        features, logits = trained.algorithm.look(trained.networks, test.floats())
    assert features.shape == (len(test), 16)
    assert float((logits.argmax(1) == test.labels).double().mean()) > 0.9
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert float(list(csv.DictReader(file))[-1]["classifier.accuracy"]) > 0.9


def test_the_cifar_network_is_that_of_the_table():
    algorithm = Classifier(preset="agan")
    with torch.random.fork_rng():
        networks = algorithm.networks((3, 32, 32)).eval()
    convolutions = [m for m in networks["trunk"] if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512]
    assert [m.stride[0] for m in convolutions] == [2, 1, 2, 1, 2, 2, 2, 2, 2, 2, 2]
    features, logits = algorithm.look(networks, torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert (features.shape, logits.shape) == ((2, 512), (2, 10))


def test_the_learning_rate_falls_where_the_table_says_and_survives_a_resume(tmp_path):
    weight = nn.Parameter(torch.ones(1))
    optimizer = DecayedSGD([weight], 0.1, momentum=0.9, weight_decay=0.0)
    rates = {}
    for done in (0, 39_999, 40_000, 60_000):
        optimizer.state[weight]["step"] = torch.tensor(float(done))
        weight.grad = torch.zeros(1)
        optimizer.step()
        rates[done] = optimizer.param_groups[0]["lr"]
    assert rates == pytest.approx({0: 0.1, 39_999: 0.1, 40_000: 0.01, 60_000: 0.001})
    generator = torch.Generator().manual_seed(0)
    x = (255 * torch.rand(8, 1, 28, 28, generator=generator)).byte()
    data = dataclasses.replace(registry.load("datasets", "digits")().load("test"), stored=x, labels=torch.arange(8))
    algorithm = Classifier(preset="agan", batch_size=4)
    train(algorithm, data, steps=1, out=tmp_path)
    tensors, _ = read(train(algorithm, data, steps=2, out=tmp_path, resume=True))
    assert tensors["optimizer.classifier.0.step"] == 2


def test_crops_are_pieces_of_their_own_image():
    x = torch.arange(3 * 28 * 28).float().reshape(3, 1, 28, 28)
    crops = random_crops(x, torch.Generator().manual_seed(0))
    assert crops.shape == (3, 1, CROP, CROP)
    for image, crop in zip(x, crops, strict=True):
        top, left = divmod(int(crop[0, 0, 0] - image[0, 0, 0]), 28)
        assert torch.equal(crop[0], image[0, top : top + CROP, left : left + CROP])


def test_what_it_cannot_learn_from_is_refused(digits, tmp_path):
    with pytest.raises(InputError, match="none: choose a data set with labels"):
        train(Classifier(), dataclasses.replace(digits, labels=None), steps=1, out=tmp_path / "a")
    with pytest.raises(InputError, match="3 classes, but there are labels from 0 to 9"):
        train(Classifier(classes=3), digits, steps=1, out=tmp_path / "b")
    with pytest.raises(InputError, match="24 x 24"):
        Classifier(preset="agan").networks((64,))
    with pytest.raises(InputError, match="classes of at least 2"):
        Classifier(classes=1)


def test_the_command_line_trains_it_without_pictures_and_does_not_sample_it(tmp_path, capsys):
    flags = ["--dataset", "digits", "--steps", "2", "--width", "8", "--device", "cpu", "--pictures-every", "1"]
    assert main(["train", "classifier", *flags, "--out", str(tmp_path)]) == 0
    assert not list(tmp_path.glob("*.png"))
    assert main(["sample", "--checkpoint", str(tmp_path / "checkpoint.safetensors")]) == 2
    assert "classifier, which has no generator" in capsys.readouterr().err
