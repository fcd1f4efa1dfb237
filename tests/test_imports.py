"""The house has one direction: a file imports from below, never from above, and only the command line talks to people."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import klprobe

ROOT = pathlib.Path(klprobe.__file__).parent
FOLDERS = ("encoders", "estimators", "trainers", "datasets", "metrics")
LEVELS = (
    ("types", "printable"),
    (
        "registry",
        "files",
        "remembered",
        "provenance",
        "kernels",
        "parallel",
        "partial",
        "zips",
        "json_files",
        "construction",
        "typed_settings",
        "npy",
        "images",
        "downloads",
    ),  # the registry finds files by name when it is asked, and imports none of them itself
    ("distributions", "priors", "networks", "losses", "mixture", "statistics", "control_variates", "categorical"),
    ("checkpoint", "metrics_log", "training", "problems", "flows", "remembered"),
    FOLDERS,
    (
        *("marginals", "pairs", "inspection", "diagnosis", "parts", "holes", "report", "loading", "estimation", "experiments"),
        "python_data",
        *("recommendation", "pictures", "tracking", "lightning", "evaluation", "evidence", "trained", "judge"),
    ),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = {".".join(("klprobe", *file.relative_to(ROOT).with_suffix("").parts)): file for file in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items()}


def imports_of(module: str, *, at_once: bool = False) -> set[str]:
    """Modules of klprobe that this one imports: wherever in the file, or only at once when it is itself imported."""
    tree = ast.parse(MODULES[module].read_text())
    found = set()
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= named & set(MODULES) or {str(node.module)}
    return {name for name in found if name.split(".")[0] == "klprobe"}


def room(module: str) -> str:
    return module.split(".")[1]


INSIDE = [module for module in MODULES if module != "klprobe"]


@pytest.mark.parametrize("module", INSIDE)
def test_imports_go_down(module):
    assert room(module) in LEVEL, f"say in LEVELS and in CONTRIBUTING.md where {room(module)} belongs"
    for name in imports_of(module) - {"klprobe"}:
        assert LEVEL[room(name)] <= LEVEL[room(module)], f"{module} imports {name} from above"


@pytest.mark.parametrize("module", [m for m in INSIDE if room(m) in FOLDERS])
def test_files_of_the_five_folders_know_nothing_of_each_other(module):
    for name in imports_of(module):
        if name != "klprobe" and room(name) in FOLDERS:
            assert room(name) == room(module), f"{module} imports {name} of another folder"
            assert name.rpartition(".")[2].startswith("_"), f"{module} imports {name}, its neighbour"


def test_no_two_modules_need_each_other():
    graph = {module: imports_of(module, at_once=True) - {"klprobe"} for module in INSIDE}
    list(graphlib.TopologicalSorter(graph).static_order())


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
    extras = [project["optional-dependencies"][name] for name in ("onnx", "pythae", "diffusers", "scvi", "lightning")]
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
