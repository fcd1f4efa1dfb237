"""UNIFY's lemmas in one dimension to quadrature precision, what they need, and the numbers of its tables."""

import math

import pytest
import torch

from analyses.unify import figure_2, lemmas, table_3
from analyses.unify.run_tables import PILOT, bound_cells, gan_cells

PRECISION = 1e-12
"""Gradients are of order 1, sums of 2,801 float64 terms; the trapezoidal rule itself is exact to rounding here."""


@pytest.mark.parametrize("name", lemmas.DISCRIMINATORS)
def test_lemma_1_is_an_identity_of_gradients_with_p_theta0_held_fixed(name):
    found = lemmas.lemma_1(lemmas.DISCRIMINATORS[name]())
    torch.testing.assert_close(found["right"], found["left"], rtol=0, atol=PRECISION)


def test_quadrature_gives_the_closed_forms_of_normals():
    theta = torch.tensor([0.7, 0.1], dtype=torch.float64)
    log_p, log_q = lemmas.log_generated(theta), lemmas.log_normal(lemmas.X, -0.4, math.log(1.5))
    truth = torch.distributions.kl_divergence(
        torch.distributions.Normal(0.7, math.exp(0.1)), torch.distributions.Normal(-0.4, 1.5)
    )
    assert float(lemmas.kl(log_p, log_q)) == pytest.approx(float(truth), rel=1e-6)  # torch's in float32
    assert float(lemmas.mean_of(lemmas.log_data(lemmas.X), torch.ones_like(lemmas.X))) == pytest.approx(1, abs=PRECISION)
    made = lemmas.log_marginal(torch.tensor(lemmas.VAE, dtype=torch.float64))
    assert float(lemmas.mean_of(made, torch.ones_like(lemmas.X))) == pytest.approx(1, abs=1e-9)


def test_lemma_1_fails_with_p_theta0_moving_by_the_gradient_of_the_normalisers():
    """A discriminator that takes much more or less than half of the points for data; the optimal one hides the difference."""
    found = lemmas.lemma_1(lemmas.DISCRIMINATORS["a line"]())
    assert (found["moving"] - found["left"]).abs().max() > 0.01
    torch.testing.assert_close(found["moving"] - found["left"], found["normalisers"], rtol=0, atol=PRECISION)
    hidden = lemmas.lemma_1(lemmas.DISCRIMINATORS["optimal"]())
    torch.testing.assert_close(hidden["moving"], hidden["left"], rtol=0, atol=PRECISION)


def test_the_jsd_is_no_lower_bound_of_the_kl_term():
    """Appendix C: true of a good discriminator, false of one that is as wrong as can be, where the KL term is 0."""
    good, wrong = (lemmas.lemma_1(lemmas.DISCRIMINATORS[name]()) for name in ("optimal", "optimal, reversed"))
    assert good["kl"] > good["jsd"]
    assert float(wrong["kl"]) == pytest.approx(0, abs=PRECISION)
    assert wrong["jsd"] > 0.4


@pytest.mark.parametrize("at", [lemmas.VAE, lemmas.ELSEWHERE, (0.3, 0.0, 0.2, -0.1, 0.0, 0.1)])
def test_line_1_of_eq_12_is_half_the_vae_objective_and_a_constant(at):
    there, start = (torch.tensor(p, dtype=torch.float64) for p in (at, lemmas.VAE))
    constant = lemmas.eq_12(start)[0] - lemmas.vae_objective(start) / 2
    torch.testing.assert_close(lemmas.eq_12(there)[0] - lemmas.vae_objective(there) / 2, constant, rtol=0, atol=PRECISION)
    slopes = [lemmas.slope(f, at) for f in (lambda p: lemmas.eq_12(p)[0], lambda p: lemmas.vae_objective(p) / 2)]
    torch.testing.assert_close(*slopes, rtol=0, atol=PRECISION)


def test_line_2_of_eq_12_drops_a_term_whose_gradient_vanishes_at_theta0_alone():
    gap = {at: lemmas.slope(lambda p: lemmas.eq_12(p)[1] - lemmas.eq_12(p)[0], at) for at in (lemmas.VAE, lemmas.ELSEWHERE)}
    assert gap[lemmas.VAE].abs().max() < 1e-9  # generated points off the grid's ends
    assert gap[lemmas.ELSEWHERE].abs().max() > 0.01
    first, second = lemmas.eq_12(torch.tensor(lemmas.VAE, dtype=torch.float64))
    assert second - first > 1  # -E log p_theta(x): the entropy of the mixture


def test_eq_17_moves_the_parameters_as_the_weighted_bound_does():
    assert lemmas.aavae_apart() < PRECISION


def test_the_page_of_the_lemmas_is_what_the_script_computes(monkeypatch, tmp_path):
    """Up to the rounding of differences that are 0 in exact arithmetic."""
    written = (lemmas.HERE / "lemmas.md").read_text()
    monkeypatch.setattr(lemmas, "HERE", tmp_path)
    lemmas.main()
    numbers = [line for line in written.splitlines() if "e-" not in line and "e+" not in line]
    assert set(numbers) <= set((tmp_path / "lemmas.md").read_text().splitlines())


def test_the_picture_shows_a_step_that_comes_nearer_by_kl_and_misses_the_small_mode(tmp_path):
    aim, start = figure_2.target(), torch.tensor(lemmas.START, dtype=torch.float64)
    new = figure_2.projected()
    assert lemmas.kl(lemmas.log_generated(new), aim) < 0.5 * lemmas.kl(lemmas.log_generated(start), aim)
    assert float(lemmas.mean_of(lemmas.log_generated(new), (lemmas.X < 0).double())) < 0.01
    assert figure_2.main(tmp_path / "figure.svg").stat().st_size < 300_000


def test_the_pairs_of_table_3_differ_in_the_papers_addition_alone_and_pilots_have_a_seed_of_their_own():
    cells = bound_cells("quick")
    assert len({str(cell) for cell in cells}) == len(cells)
    for plain, activated in table_3.PAIRS:
        for cell in (c for c in cells if c["model"] == plain):
            (other,) = (c for c in cells if (c["model"], c["percent"], c["seed"]) == (activated, cell["percent"], cell["seed"]))
            assert {k: v for k, v in cell["settings"].items() if k != "activated"} == {
                k: v for k, v in other["settings"].items() if k != "temperature"
            }
            assert cell["steps"] == other["steps"]
    assert {c["seed"] for c in cells if c["seed"] != PILOT} == {c["seed"] for c in gan_cells("quick")} == {0, 1, 2}


def test_differences_are_paired():
    assert table_3.spread([1.0, 3.0]) == "2.00 ± 1.41"
    assert table_3.difference([0.5, 1.5]) == "+1.00 ± 0.50 (t = +2.0)"
    assert table_3.spread([1.0]) == "1.00"
