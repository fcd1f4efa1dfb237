"""Latents that are not one flat Gaussian: full covariances, levels, classes, channels; from arrays and from encoders."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal

from klprobe.distributions.categorical import Classes
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.estimation.run import estimate
from klprobe.formats import Request, load
from klprobe.formats._encode import Encoder, encode_data
from klprobe.types import InputError

N, D = 40, 3


def rng(seed=0):
    return np.random.default_rng(seed)


MEAN = rng(0).normal(size=(N, D))
LOGVAR = rng(1).normal(-1, 0.2, size=(N, D))
TRIL = np.tril(rng(2).normal(size=(N, D, D)), -1) + np.eye(D) * rng(3).uniform(0.5, 2, size=(N, D, 1))
COVARIANCE = TRIL @ TRIL.transpose(0, 2, 1)
PROBS = rng(4).dirichlet(np.ones(4), N)


@pytest.fixture(params=["npz", "safetensors", "folder"])
def write(request, tmp_path):
    def save(**arrays):
        if request.param == "npz":
            np.savez(tmp_path / "q.npz", **arrays)
            return tmp_path / "q.npz"
        if request.param == "safetensors":
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / "q.safetensors")
            return tmp_path / "q.safetensors"
        (tmp_path / "q").mkdir()
        for name, array in arrays.items():
            np.save(tmp_path / "q" / f"{name}.npy", array)
        return tmp_path / "q"

    return save


# ---- arrays


@pytest.mark.parametrize("given", [{"scale_tril": TRIL}, {"covariance": COVARIANCE}])
def test_full_covariances_are_that_gaussian(write, given):
    posterior = load(write(mean=MEAN, **given)).posterior
    assert isinstance(posterior, MultivariateNormal)
    torch.testing.assert_close(posterior.loc, torch.from_numpy(MEAN))
    torch.testing.assert_close(posterior.covariance_matrix, torch.from_numpy(COVARIANCE))


def test_levels_are_one_joint_gaussian_whose_parts_are_the_levels(write):
    encoded = load(write(mean_0=MEAN, logvar_0=LOGVAR, mean_1=MEAN[:, :1] + 1, logvar_1=LOGVAR[:, :1] - 1))
    assert isinstance(encoded.posterior, DiagonalGaussian)
    mean, std = encoded.posterior.rows(slice(None))
    np.testing.assert_array_equal(mean.numpy(), np.concatenate([MEAN, MEAN[:, :1] + 1], 1))
    np.testing.assert_allclose(2 * np.log(std.numpy()), np.concatenate([LOGVAR, LOGVAR[:, :1] - 1], 1), rtol=1e-12)
    assert encoded.parts == {"level 0": slice(0, D), "level 1": slice(D, D + 1)}
    assert any("ladder VAEs" in note for note in encoded.notes)


def test_eleven_levels_keep_their_order(tmp_path):
    np.savez(tmp_path / "q.npz", **{f"{name}_{i}": np.full((N, 1), i * 1.0) for i in range(11) for name in ("mean", "std")} | {"std_0": np.ones((N, 1))})  # fmt: skip  # noqa: E501
    mean, _ = load(tmp_path / "q.npz").posterior.rows(slice(0, 1))
    assert mean[0].tolist() == list(range(11))


@pytest.mark.parametrize("how", ["probs", "logits"])
@pytest.mark.parametrize("prior", [None, np.array([0.1, 0.2, 0.3, 0.4])])
def test_classes_alone_are_the_posterior_and_their_kl_is_a_sum(write, how, prior):
    given = {how: PROBS if how == "probs" else np.log(PROBS) + 3} | ({} if prior is None else {"prior_probs": prior})
    encoded = load(write(**given))
    report = estimate(encoded.posterior, encoded.prior, methods=["closed-form"])
    mean, p = PROBS.mean(0), np.full(4, 0.25) if prior is None else prior
    bracket = report.brackets["empirical"]
    assert bracket.lower.value == bracket.upper.value == pytest.approx((mean * np.log(mean / p)).sum(), rel=1e-9)


@pytest.mark.parametrize("how", ["probs", "logits"])
def test_categorical_latents_are_parts_beside_the_continuous_ones(write, how):
    given = PROBS if how == "probs" else np.log(PROBS) + 3
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    encoded = load(write(mean=MEAN, logvar=LOGVAR, **{f"{how}_0": given, f"{how}_1": given, "prior_probs_1": prior}))
    assert encoded.posterior.event_shape == (D,)
    assert list(encoded.parts) == ["classes 0", "classes 1"]
    first, second = encoded.parts.values()
    assert isinstance(first, Classes)
    torch.testing.assert_close(first.probs, torch.from_numpy(PROBS))
    assert first.prior.tolist() == [0.25] * 4
    torch.testing.assert_close(second.prior, torch.from_numpy(prior))


BROKEN = COVARIANCE.copy()
BROKEN[7] = -np.eye(D)
BROKEN[9] = -np.eye(D)
SKEW = COVARIANCE.copy()
SKEW[5, 0, 1] += 1
FLAT = TRIL.copy()
FLAT[11, 1, 1] = 0


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mean": MEAN, "covariance": BROKEN}, "not positive definite in 2 rows, the first of them row 7"),
        ({"mean": MEAN, "covariance": SKEW}, "not symmetric in row 5"),
        ({"mean": MEAN, "scale_tril": COVARIANCE}, "above the diagonal in 40 rows, the first of them row 0"),
        ({"mean": MEAN, "scale_tril": FLAT}, "not positive in row 11"),
        ({"mean": MEAN, "scale_tril": TRIL[:, :2]}, r"\(40, 2, 3\).*must be \(40, 3, 3\)"),
        ({"mean": MEAN, "covariance": np.where(np.isnan(MEAN[:, :, None]), 0, np.nan) * COVARIANCE}, "NaN"),
        ({"mean": MEAN, "covariance": COVARIANCE, "std": np.exp(LOGVAR)}, "std and covariance at once"),
        ({"mean_0": MEAN, "logvar_0": LOGVAR, "mean_2": MEAN, "logvar_2": LOGVAR}, "klprobe needs .*from 0"),
        ({"mean_0": MEAN, "logvar_0": LOGVAR, "mean_1": MEAN, "std_1": np.exp(LOGVAR)}, "one kind of spread"),
        ({"mean_0": MEAN, "logvar_0": LOGVAR, "mean": MEAN, "logvar": LOGVAR}, "klprobe needs"),
        ({"mean_0": MEAN, "logvar_0": LOGVAR, "mean_1": MEAN[:9], "logvar_1": LOGVAR[:9]}, "levels have 9, 40 rows"),
        ({"mean_0": MEAN, "logvar_0": LOGVAR, "mean_1": MEAN, "logvar_1": LOGVAR[:, :2]}, "shapes disagree: mean_1"),
        ({"mean_0": MEAN, "var_0": MEAN, "mean_1": MEAN, "var_1": MEAN}, "'var_0' has .* negative"),
        ({"probs_0": PROBS, "probs_1": PROBS}, "2 categorical latents"),
        ({"probs": 2 * PROBS}, "40 rows of class probabilities"),
        ({"mean": MEAN, "std": np.exp(LOGVAR), "probs": PROBS[:9]}, "probs has 9 rows, but there are 40 points"),
        ({"mean": MEAN, "std": np.exp(LOGVAR), "probs": 2 * PROBS}, "probs: 40 rows of class probabilities"),
        ({"mean": MEAN, "std": np.exp(LOGVAR), "probs": PROBS, "logits": PROBS}, "probs and logits at once"),
        ({"mean": MEAN, "std": np.exp(LOGVAR), "prior_probs": PROBS[0]}, "but no probs or logits"),
        ({"mean": MEAN, "std": np.exp(LOGVAR), "logits": np.full_like(PROBS, np.nan)}, "logits is NaN or infinite in 40 rows"),
    ],
)
def test_latents_that_make_no_sense_are_refused_by_name_and_row(tmp_path, arrays, words):
    np.savez(tmp_path / "q.npz", **arrays)
    with pytest.raises(InputError, match=words):
        load(tmp_path / "q.npz")


def test_a_float32_covariance_is_symmetric_enough(tmp_path):
    np.savez(
        tmp_path / "q.npz",
        mean=MEAN.astype("f4"),
        covariance=COVARIANCE.astype("f4") * (1 + 1e-7 * rng(5).normal(size=(N, D, D))),
    )
    assert isinstance(load(tmp_path / "q.npz").posterior, MultivariateNormal)


# ---- encoders


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    path = tmp_path_factory.mktemp("points") / "x.npy"
    np.save(path, np.concatenate([MEAN, LOGVAR], 1).astype(np.float32))
    return str(path)


def encoded(points, run, outputs=None):
    return encode_data(Encoder(lambda x: run(x[:, :D], x[:, D:]), "encoder.pt"), Request(data=points, outputs=outputs), {})


def normal(mean, logvar):
    return Independent(Normal(mean, (logvar / 2).exp()), 1)


LEVELS = {
    "pairs": lambda m, v: [(m, v), (m[:, :2], v[:, :2])],
    "pairs of one shape, three of them": lambda m, v: [(m, v), (m, v), (m, v)],
    "means, then log-variances": lambda m, v: ([m, m[:, :2]], [v, v[:, :2]]),
    "named lists": lambda m, v: {"logvar": [v, v[:, :2]], "mu": [m, m[:, :2]]},
    "numbered names": lambda m, v: {"mu1": m, "logvar1": v, "mu2": m[:, :2], "logvar2": v[:, :2]},
    "a list of names": lambda m, v: [{"mean": m, "logvar": v}, {"mean": m[:, :2], "logvar": v[:, :2]}],
    "Distributions": lambda m, v: [normal(m, v), normal(m[:, :2], v[:, :2])],
    "named Distributions": lambda m, v: {"top_1": normal(m, v), "top_2": normal(m[:, :2], v[:, :2])},
    "with a reconstruction": lambda m, v: {"levels": [normal(m, v), normal(m[:, :2], v[:, :2])], "recon": m},
    "with samples": lambda m, v: {"mu_1": m, "logvar_1": v, "z_1": m + torch.randn_like(m), "mu_2": m, "logvar_2": v},
}


@pytest.mark.parametrize("case", LEVELS)
def test_levels_are_found_in(points, case):
    found = encoded(points, LEVELS[case])
    assert isinstance(found.posterior, DiagonalGaussian)
    assert list(found.parts)[:2] == ["level 0", "level 1"]
    mean, std = found.posterior.rows(slice(None))
    for columns in (part for part in found.parts.values() if isinstance(part, slice)):
        width = columns.stop - columns.start
        np.testing.assert_allclose(mean[:, columns].numpy(), MEAN[:, :width], rtol=1e-6)
        np.testing.assert_allclose(2 * std[:, columns].log().numpy(), LOGVAR[:, :width], rtol=1e-5, atol=1e-6)
    assert any("ladder VAEs" in note for note in found.notes)


@pytest.mark.parametrize("order", ["mean_0,logvar_0,mean_1,logvar_1", "mean_0,mean_1,logvar_0,logvar_1"])
def test_two_lists_of_two_tensors_of_one_shape_have_two_readings_and_the_user_says_which(points, order):
    def run(m, v):
        return [(m, v), (m, v)] if order.startswith("mean_0,logvar") else [(m, m), (v, v)]

    with pytest.raises(InputError, match="--outputs mean_0,logvar_0,mean_1,logvar_1, or mean_0,mean_1"):
        encoded(points, run)
    assert encoded(points, run, order).posterior.event_shape == (2 * D,)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ("mean_0,logvar_0,mean_2,logvar_2", "from 0"),
        ("mean_0,logvar_0,mean_1,std_1", "one kind of spread"),
        ("mean_0,logvar_0,mean_1,spread_1", "'spread_1' is not known"),
        ("mean_0,logvar_0,mean_0,logvar_0", "give mean and one of"),
    ],
)
def test_levels_that_make_no_sense_are_refused(points, outputs, words):
    with pytest.raises(InputError, match=words):
        encoded(points, lambda m, v: (m, v, m, v), outputs)


def test_pairs_whose_spreads_are_positive_have_to_be_named(points):
    with pytest.raises(InputError, match="mean_0,std_0,mean_1,std_1"):
        encoded(points, lambda m, v: [(m, v.exp()), (m[:, :2], v[:, :2].exp())])


@pytest.mark.parametrize(
    "run",
    [
        lambda m, v: (normal(m, v), Categorical(logits=m)),
        lambda m, v: {"mean": m, "logvar": v, "probs": m.softmax(1)},
        lambda m, v: {"z": normal(m, v), "c": torch.distributions.OneHotCategorical(logits=m)},
    ],
)
def test_classes_beside_a_gaussian_are_found_in_what_an_encoder_returns(points, run):
    found = encoded(points, run)
    assert isinstance(found.posterior, DiagonalGaussian)
    torch.testing.assert_close(found.parts["classes"].probs.float(), torch.from_numpy(MEAN).float().softmax(1))
    assert any("as categorical latents" in note for note in found.notes)


def test_outputs_named_by_the_user_may_be_classes(points):
    """As a joint VAE returns them: {cont: [mean, logvar], disc: [probabilities, probabilities]}."""

    def run(m, v):
        return {"cont": [m, v], "disc": [m.softmax(1), v.softmax(1)]}

    found = encoded(points, run, "mean,logvar,probs_0,probs_1")
    assert list(found.parts) == ["classes 0", "classes 1"]
    torch.testing.assert_close(found.parts["classes 1"].probs.float(), torch.from_numpy(LOGVAR).float().softmax(1))


@pytest.mark.parametrize(
    ("run", "outputs", "words"),
    [
        (lambda m, v: (m, v, m, m), "mean,logvar,probs,logits", "probs and logits at once"),
        (lambda m, v: (m, v, m[:, :, None].repeat(1, 1, 2)), "mean,logvar,logits", r"\(N, K\), but .* \(40, 3, 2\)"),
        (lambda m, v: [(normal(m, v), normal(m, v)), (normal(m, v), normal(m, v))], None, "lists of lists"),
    ],
)
def test_what_could_be_read_wrongly_is_refused(points, run, outputs, words):
    with pytest.raises(InputError, match=words):
        encoded(points, run, outputs)


def test_a_decoders_probabilities_are_no_classes(points):
    found = encoded(points, lambda m, v: {"mean": m, "logvar": v, "probs": torch.sigmoid(m)})
    assert not found.parts


@pytest.mark.parametrize("side_by_side", [True, False])
def test_channels_of_spatial_latents_are_parts(points, side_by_side):
    def run(m, v):
        m, v = (t.repeat(1, 4).reshape(-1, 3, 2, 2) for t in (m, v))
        return torch.cat([m, v], 1) if side_by_side else (m, v)

    found = encoded(points, run, "mean,logvar" if side_by_side else None)
    assert found.parts == {"channel 0": slice(0, 4), "channel 1": slice(4, 8), "channel 2": slice(8, 12)}


def test_very_many_channels_are_not_reported_one_by_one_and_that_is_said(points):
    found = encoded(points, lambda m, v: tuple(t.repeat(1, 40).reshape(-1, 30, 2, 2) for t in (m, v)))
    assert not found.parts
    assert any("30 channels" in note for note in found.notes)
