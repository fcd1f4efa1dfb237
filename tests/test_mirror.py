"""Tests lie where what they test lies: `tests/X/test_Y.py` is of `klprobe/X/Y.py`, or the table says of what it is and why."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
WIDER = {
    "*/test_contracts.py": "what holds of every file of the folder",
    "cli/test_faults.py": "every command whose terminal, disk or process fails",
    "cli/test_help.py": "the help texts of every command",
    "estimators/test_truth.py": "right numbers, errors and sides of every estimator",
    "trainers/test_improvement.py": "every player gets better at its part",
    "trainers/test_algorithm_boxes.py": "losses against the formulas of their papers, player by player",
    "trainers/test_unify.py": "the same of one paper's systems: iwgan, aavae and infogan",
    "estimators/test_density_models.py": "what gmm, maf and lstm have in common",
    "estimators/test_sample_estimators.py": "what the estimators from samples alone have in common",
    "estimation/test_properties.py": "every number of whole reports on generated posteriors, against brute force",
    "estimation/test_bracket.py": "whole runs over many data sets: brackets hold what they claim",
    "datasets/test_own_files.py": "image_folder and array_file, with what they have in common",
    "datasets/test_toys.py": "ring, grid and color_mnist, with what they have in common",
    "files/test_elsewhere.py": "hdf5 and ONNX files that say that part of them lies in another file",
    "files/test_openers.py": "every place of the package that could run what a file says",
    "formats/test_folders.py": "the folders of pythae and diffusers, with what they have in common",
    "formats/test_torch_formats.py": "one encoder in each of torch's own formats",
    "formats/test_training_mode.py": "encoders of any format that were saved in training mode",
    "formats/test_pickles.py": "no format unpickles unless it is told to",
    "formats/test_safety.py": "no format runs what a file says, by any way into the program",
    "cli/test_same_bits.py": "reports of the same command, number by number",
    "cli/test_hostile_text.py": "every command on names and words of any kind",
    "cli/test_own_data.py": "every command on data as users hand them over",
    "cli/test_names_in_files.py": "every command on names that a file says",
    "fuzz/*": "harmed files of every format",
    "analyses/test_items.py": "every item of every paper",
    "analyses/test_links.py": "links and commands of every page",
    "analyses/bms/test_image_items.py": "what BMS's items about images have in common",
}
"""Tests of more than one file, by path or pattern, and what they are of."""
TESTS = sorted(path.relative_to(ROOT / "tests") for path in ROOT.glob("tests/*/**/test_*.py"))


def is_mirrored(test: pathlib.PurePath) -> bool:
    """Whether a path below `tests/` is named for a file, a private file or a whole folder at the same place of the package."""
    home = ROOT / test.parent if test.parts[0] == "analyses" else ROOT / "klprobe" / test.parent
    name = test.stem.removeprefix("test_")
    whole_folder = home.name == name and (home / "__init__.py").is_file()
    return whole_folder or any((home / f"{start}{name}.py").is_file() for start in ("", "_"))


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_a_test_lies_where_what_it_tests_lies(test):
    reasons = [pattern for pattern in WIDER if test.match(pattern)]
    assert is_mirrored(test) != bool(reasons), (
        f"tests/{test} mirrors no file, or has a row and needs none: name it for the file that it tests, or say in WIDER what "
        "it is of"
    )


def test_no_row_is_left_over():
    assert [pattern for pattern in WIDER if not any(test.match(pattern) for test in TESTS)] == []


@pytest.mark.parametrize(
    "test", ["rendering/test_report.py", "cli/test_systems.py", "nowhere/test_run.py", "files/test_run.py"]
)
def test_a_test_in_the_wrong_folder_is_caught(test):
    assert not is_mirrored(pathlib.PurePath(test))


def test_folders_of_tests_are_folders_of_the_package():
    rooms = {path.parent.name for path in ROOT.glob("klprobe/*/__init__.py")}
    folders = {path.parent.name for path in ROOT.glob("tests/*/test_*.py")}
    assert folders - {"fuzz", "analyses"} == rooms - {"assets"}
