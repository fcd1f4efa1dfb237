"""A file says one idea whole: what only one other file needs stands in that file, and what several share is short."""

import pytest

from tests.test_imports import INSIDE, MODULES, imports_of

LONGEST = 300
"""Lines of a private file."""
ALONE = {
    "klprobe.formats._outputs": "which output is the mean and which the spread is one idea, and running an encoder, where "
    "that is asked, another; in one file they would be 600 lines",
    "klprobe.formats._several": "opening several arrays as an encoder's arguments is one idea, running it another; "
    "in one file they would be 450 lines",
}
"""Private files that one other file imports all the same, and why."""
PRIVATE = [m for m in INSIDE if m.split(".")[-1].startswith("_") and not m.split(".")[-1].startswith("__")]


def users(module):
    return [other for other in INSIDE if other != module and module in imports_of(other)]


def behind(module):
    """The files of its own room that a reader of this one opens, itself among them."""
    folder, found, left = module.rpartition(".")[0] + ".", set(), [module]
    while left:
        found.add(left[-1])
        left = [*left[:-1], *(name for name in imports_of(left[-1]) if name.startswith(folder) and name not in found)]
    return found


@pytest.mark.parametrize("module", PRIVATE)
def test_a_private_file_serves_several(module):
    alone = len(users(module)) < 2
    assert alone == (module in ALONE), f"{module} is imported by {users(module)} alone: merge the two" if alone else module


@pytest.mark.parametrize("module", PRIVATE)
def test_a_private_file_is_short(module):
    assert len(MODULES[module].read_text().splitlines()) <= LONGEST


def test_an_estimator_is_understood_from_six_files():
    folder = "klprobe.estimators."
    for module in [m for m in INSIDE if m.startswith(folder) and m not in PRIVATE]:
        assert len(behind(module)) <= 6, sorted(behind(module))
