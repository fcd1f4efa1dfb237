"""The house has one direction: a file imports from below, never from above, and only the command line talks to people.

`python -m pytest -s tests/test_imports.py -k counted` prints how many rooms, arrows, upward imports and circles there are.
"""

import ast
import graphlib
import importlib
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import klprobe

ROOT = pathlib.Path(klprobe.__file__).parent
FOLDERS = ("estimators", "trainers", "datasets", "metrics", "formats")
LEVELS = (
    ("types",),
    ("printable",),
    ("registry",),  # finds files by name when it is asked, and imports none of them itself
    ("files",),
    ("runtime",),
    ("distributions",),
    ("training",),
    FOLDERS,
    ("synthetic",),
    ("evaluation",),
    ("estimation",),
    ("rendering",),
    ("cli",),
    ("__main__",),
)
"""The rooms from below to above, each on a floor of its own but the five folders, which know nothing of each other."""
DOOR = ("klprobe.estimation.report", "klprobe.rendering")
"""The one import that runs up: a notebook shows a report, so it asks for its picture, and only when it is asked for one."""
MOST_ROOMS = 22
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = {".".join(("klprobe", *file.relative_to(ROOT).with_suffix("").parts)): file for file in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items()}
INSIDE = [module for module in MODULES if module != "klprobe"]


def imports_of(module: str, *, at_once: bool = False) -> set[str]:
    """Modules of klprobe that this one imports: wherever in the file, or only at once when it is itself imported."""
    tree = ast.parse(MODULES[module].read_text())
    found = set()
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                named = f"{node.module}.{alias.name}"
                found.add(named if named in MODULES else str(node.module))
    return {name for name in found if name.split(".")[0] == "klprobe"} - {"klprobe"}


def room(module: str) -> str:
    return module.split(".")[1]


def through_the_door(module: str, name: str) -> bool:
    return module == DOOR[0] and name.startswith(DOOR[1]) and name not in imports_of(module, at_once=True)


def upward() -> list[str]:
    """Imports that run up from one floor to a higher one."""
    return [
        f"{module} imports {name}"
        for module in INSIDE
        for name in sorted(imports_of(module))
        if LEVEL[room(name)] > LEVEL[room(module)] and not through_the_door(module, name)
    ]


def circle() -> list[str]:
    """Files that import each other in a loop, wherever in the file they do; none is an empty list."""
    graph = {m: {n for n in imports_of(m) - {m} if not through_the_door(m, n)} for m in INSIDE}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_has_its_floor():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()} - {"__init__"}
    assert rooms == set(LEVEL), "say in LEVELS and in CONTRIBUTING.md where a room belongs"


def test_the_house_is_small_enough_to_be_seen_at_once_and_is_counted():
    rooms = [path.name for path in ROOT.iterdir() if path.name != "__pycache__"]
    arrows = {(room(module), room(name)) for module in INSIDE for name in imports_of(module) if room(module) != room(name)}
    print(
        f"\nrooms {len(rooms)}, files {len(MODULES)}, arrows between rooms {len(arrows)}, upward {upward()}, circle {circle()}"
    )
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)


def test_imports_go_down():
    assert upward() == []


def test_no_two_modules_need_each_other():
    assert circle() == []


def test_the_one_door_upward_opens_only_when_somebody_knocks():
    assert any(name.startswith(DOOR[1]) for name in imports_of(DOOR[0]))
    assert not any(name.startswith(DOOR[1]) for name in imports_of(DOOR[0], at_once=True))


@pytest.mark.parametrize("module", [m for m in INSIDE if room(m) in FOLDERS])
def test_files_of_the_five_folders_know_nothing_of_each_other(module):
    for name in imports_of(module):
        if room(name) in FOLDERS:
            assert room(name) == room(module), f"{module} imports {name} of another folder"
            face, _, file = name.removeprefix("klprobe.").partition(".")
            assert not file or file.startswith("_"), f"{module} imports {name}, its neighbour: they share {face} and _files"


@pytest.mark.parametrize("module", [m for m in INSIDE if room(m) not in ("cli", "__main__")])
def test_only_the_command_line_parses_prints_and_exits(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "quit", "input", "sys.exit", "os._exit"), (
                f"{module}:{node.lineno}: {called}()"
            )
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", "") or "").split(".")[0]}
            assert not named & {"tyro", "argparse"}, f"{module}:{node.lineno} parses"


def test_what_is_imported_from_others_is_what_pyproject_declares():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    extras = [
        project["optional-dependencies"][name] for name in ("onnx", "pythae", "diffusers", "scvi", "lightning", "parquet")
    ]
    declared = sum(extras, project["dependencies"])
    found = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(MODULES[module].read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    others = {
        {"sklearn": "scikit-learn", "PIL": "pillow", "pytorch_lightning": "lightning", "scvi": "scvi-tools"}.get(name, name)
        for name in found - set(sys.stdlib_module_names) - {"klprobe"}
    }
    assert others == {re.match(r"[\w-]+", requirement)[0] for requirement in declared}


def test_every_public_name_is_there_and_torch_is_imported_only_when_needed():
    assert len(klprobe.__all__) <= 15
    for name in klprobe.__all__:
        assert getattr(klprobe, name) is not None
    code = (
        "import sys, klprobe, klprobe.cli, klprobe.registry; assert not {'torch', 'numpy', 'tyro', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("statement", ["import klprobe.problems as found", "found = klprobe.problems"])
def test_a_module_that_users_name_in_short_is_the_module_itself(statement):
    code = f"import klprobe; {statement}; import klprobe.distributions.problems as itself; assert found is itself"
    subprocess.run([sys.executable, "-c", code + "; assert found.__spec__.name == itself.__name__"], check=True)


def test_every_short_name_leads_to_a_module():
    for name, home in klprobe._SHORT.items():
        assert f"klprobe.{home}" in MODULES
        assert name not in LEVEL
    assert importlib.import_module("klprobe.holes").find_holes is klprobe.holes.find_holes
