"""The figures: what is drawn is what was estimated, whatever the scales."""

import dataclasses
import itertools
import math
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from klprobe.rendering import figures, forest
from klprobe.rendering.figures import draw
from klprobe.types import Bracket, Estimate, Side


def named(report):
    return {plot.name: plot for plot in draw(report)}


@pytest.fixture
def figure_of(plots_of):
    """A drawn figure by the kind of its report and its own name; None where the report has none."""
    return lambda report, name: next((plot.figure for plot in plots_of(report) if plot.name == name), None)


def tick_labels(axis):
    """Boxes of the labels that are shown: ticks beyond the axis exist too."""
    low, high = sorted(axis.get_view_interval())
    shown = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [label.get_window_extent() for label in shown if label.get_text()]


def test_a_report_has_the_figures_it_has_data_for(report_of):
    assert set(named(report_of("floor_limited"))) == {"estimates", "dimensions", "radius", "losses"}
    assert set(named(report_of("sample_only"))) == {"estimates", "radius", "losses"}
    assert set(named(report_of("interrupted"))) == {"estimates"}
    assert named(report_of("empty")) == {}


def test_every_estimate_of_the_kl_is_drawn_with_its_number(any_report, figure_of, name):
    figure = figure_of(name, "estimates")
    if figure is None:
        assert not any_report.estimates
        return
    texts = [t.get_text() for t in figure.axes[0].texts]
    for estimate in figures.wording.main_estimates(any_report):
        if estimate.method != "closed-form":  # drawn as average KL and minimal value
            assert str(figures.wording.number(estimate.value, estimate.std_error)) in texts
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert ("average KL" in labels) == math.isfinite(any_report.average_kl.value or math.nan)


def test_values_left_of_zero_or_without_a_bound_do_not_squeeze_the_axis(figure_of):
    for report, largest in (("floor_limited", 40), ("wild", 120)):
        left, right = figure_of(report, "estimates").axes[0].get_xlim()
        assert left > -8
        assert right < largest


def test_the_axis_turns_logarithmic_only_when_the_bracket_would_be_lost(figure_of):
    assert figure_of("between", "estimates").axes[0].get_xscale() == "linear"
    axes = figure_of("huge", "estimates").axes[0]
    assert axes.get_xscale() == "symlog"
    assert "logarithmic" in axes.get_xlabel()


def test_an_average_kl_far_beyond_every_estimate_is_an_arrow_and_leaves_the_axis_to_them(figure_of, report_of):
    axes = figure_of("easy", "estimates").axes[0]
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[1] < report_of("easy").average_kl.value
    assert "\N{RIGHTWARDS ARROW}" in [text.get_text() for text in axes.texts]


def test_nothing_is_clipped_and_no_two_tick_labels_overlap(plots_of, name):
    for plot in plots_of(name):
        plot.figure.draw_without_rendering()
        drawn, (width, height) = plot.figure.get_tightbbox(), plot.figure.get_size_inches()
        assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.01, plot.name
        for axis in (axis for axes in plot.figure.axes for axis in (axes.xaxis, axes.yaxis)):
            boxes = tick_labels(axis)
            assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2)), plot.name


def test_bound_sides_differ_in_shape_and_targets_in_colour():
    assert len(set(forest.MARKER.values())) == len(forest.MARKER) == 4
    assert len(set(forest.COLOUR.values())) == 2


def test_every_axis_says_its_unit(plots_of):
    for plot in plots_of("floor_limited"):
        for axes in plot.figure.axes:
            assert axes.get_xlabel()
            assert plot.name == "radius" or "nats" in axes.get_xlabel() + axes.get_ylabel()


def test_dimensions_are_sorted_and_carry_their_index(report_of, figure_of):
    report, axes = report_of("floor_limited"), figure_of("floor_limited", "dimensions").axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == sorted(report.dimensionwise_kl, reverse=True)
    order = [int(label.get_text()) for label in axes.get_xticklabels()]
    assert [report.dimensionwise_kl[d] for d in order] == heights


def test_latents_without_a_finite_kl_are_counted_not_drawn(report_of):
    plot = named(report_of("infinite"))["dimensions"]
    assert len(plot.figure.axes[0].patches) == 9
    assert "1 latents have no finite value" in plot.caption


def test_each_learned_estimator_has_one_panel_of_losses(figure_of):
    axes = figure_of("floor_limited", "losses").axes
    assert [a.get_title(loc="left") for a in axes] == ["classifier", "gmm", "maf", "lstm"]
    for panel in axes:
        assert [line.get_label() for line in panel.get_lines()] == ["train", "validation", "used"]
    assert axes[2].get_lines()[2].get_xdata() == [3900, 3900]


@pytest.mark.parametrize("points", [[[1, 2.0]], [[1, math.inf], [2, 3.0], [3, math.nan]], [[i, 3.0] for i in range(200)]])
def test_short_flat_or_broken_curves_are_drawn(report_of, points):
    estimate = Estimate("maf", "population", "lower", 1.0, 0.1, details={"curves": {"train": points, "validation": []}})
    report = dataclasses.replace(report_of("easy"), estimates=(estimate,))
    (axes,) = named(report)["losses"].figure.axes
    low, high = axes.get_ylim()
    assert low < 2.0 + (len(points) > 1) < high


def test_the_start_of_a_fit_does_not_hide_its_end(report_of):
    points = [[1, 1e6]] + [[i, 10 - i / 100] for i in range(2, 100)]
    estimate = Estimate("maf", "population", "lower", 1.0, 0.1, details={"curves": {"train": points}})
    (axes,) = named(dataclasses.replace(report_of("easy"), estimates=(estimate,)))["losses"].figure.axes
    assert axes.get_ylim()[1] < 20


@pytest.mark.parametrize(
    "values",
    [
        [(0.0, 0.0)],
        [(-3.0, 0.1)],
        [(1e-9, 1e-10), (1e9, 1.0)],
        [(2.0, 1e12)],
        [(1e300, 1e299)],
        [(5.0, math.nan), (math.nan, 1.0)],
    ],
)
def test_extreme_values_are_drawn_without_warnings(report_of, values, recwarn):
    estimates = tuple(Estimate("gmm", "population", "lower", value, error) for value, error in values)
    ends = Bracket(Side(*values[0], "gmm"), Side(*values[-1], "gmm"), (None, None))
    report = dataclasses.replace(
        report_of("empty"), estimates=estimates, brackets={"population": ends, "empirical": ends}, dimensionwise_kl=None
    )
    (plot,) = draw(report)
    assert plot.png.startswith(b"\x89PNG")
    assert not list(recwarn)


def test_the_same_report_gives_the_same_svg_and_the_svg_asks_for_nothing(report_of):
    first, again = (draw(report_of("easy"))[0].svg for _ in range(2))
    assert first == again
    for element in ElementTree.fromstring(first).iter():
        for attribute, value in element.attrib.items():
            assert not attribute.endswith("href") or value.startswith("#")


def test_figures_have_the_names_that_are_announced(plots_of):
    assert tuple(plot.name for plot in plots_of("floor_limited")) == figures.NAMES


def test_drawing_leaves_the_readers_matplotlib_alone(report_of):
    before, expected = dict(mpl.rcParams), draw(report_of("easy"))[1].svg
    with mpl.rc_context({"text.usetex": True, "axes.labelsize": 99, "font.family": "no such font"}):
        assert draw(report_of("easy"))[1].svg == expected
        assert mpl.rcParams["axes.labelsize"] == 99
    assert dict(mpl.rcParams) == before


def test_a_dollar_sign_in_a_name_is_no_formula(report_of):
    estimate = Estimate("my $\\broken{ method", "population", "lower", 1.0, 0.1)
    plot = draw(dataclasses.replace(report_of("empty"), estimates=(estimate,)))[0]
    assert plot.svg
