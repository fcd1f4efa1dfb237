"""Every place of the package that could run what a file says is declared here, whatever name it goes by in the source."""

import ast
import pathlib
import textwrap

import pytest

import klprobe

ROOT = pathlib.Path(klprobe.__file__).parent
DANGEROUS = (
    *("torch.load", "torch.jit.load", "torch.export.load", "torch.package", "torch.hub", "torch.classes.load_library"),
    *(
        "torch.ops.load_library",
        "torch.utils.model_zoo",
        "torch.compiler.load_cache_artifacts",
        "numpy.load",
        "numpy.fromregex",
    ),
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "runpy", "pandas.read_pickle"),
    *("pandas.read_hdf", "anndata.read_h5ad", "anndata.read", "anndata.read_zarr", "h5py.File", "onnxruntime.InferenceSession"),
    *("scvi.model", "yaml", "safetensors", "importlib.import_module", "importlib.util.spec_from_file_location", "imp"),
    *("builtins.__import__", "builtins.eval", "builtins.exec", "builtins.compile", "subprocess", "os.system", "os.popen"),
    *("os.spawnl", "os.spawnv", "os.posix_spawn", "os.execv", "os.execvp", "os.execl", "ctypes", "pythae.models"),
)
"""Modules and functions that open, import or start what they are named; a module stands for all that is in it."""
METHODS = ("from_pretrained", "from_config", "load_from_checkpoint", "read_h5ad", "InferenceSession", "load_library")
"""Names that count on any object at all, because what they belong to cannot be told from the source."""
HARMLESS = {
    "pickle.UnpicklingError": "an exception",
    "safetensors.SafetensorError": "an exception",
    "safetensors.torch.save": "writes bytes",
    "subprocess.SubprocessError": "an exception",
    "subprocess.TimeoutExpired": "an exception",
    "subprocess.DEVNULL": "a number",
}
DECLARED = {
    # who: what, and why nothing that a file says is run there
    ("klprobe", "importlib.import_module"): "names of a table of its own",
    ("klprobe.registry", "importlib.import_module"): "names of files in the package, compared with the list of them",
    ("klprobe.cli", "importlib.import_module"): "names of commands, compared with the list of them",
    ("klprobe.runtime.user_code", "importlib.import_module"): "what the user typed on the command line",
    ("klprobe.files.confined", "importlib.import_module"): "a function of klprobe that another of its functions asked for",
    ("klprobe.files.programs", "torch.jit.load"): "in a confined process, after the archive was looked at and written anew",
    ("klprobe.files.programs", "torch.export.load"): "in a confined process, from a document that was written anew",
    ("klprobe.files.programs", "onnxruntime.InferenceSession"): "in a confined process; a graph of operators, no Python",
    ("klprobe.files.weights", "torch.load"): "restricted to tensors, in a confined process; or with --allow-pickle",
    ("klprobe.files.hdf5", "h5py.File"): "in a confined process",
    ("klprobe.files.hdf5", "anndata.read_h5ad"): "in a confined process, after its links were looked at",
    ("klprobe.files.child", "subprocess"): "starts the confined process: this Python, a fixed line of code",
    ("klprobe.files.rights", "ctypes"): "system calls that give up rights",
    ("klprobe.files.system_calls", "ctypes"): "the system call that refuses others",
    ("klprobe.formats.scvi", "scvi.model"): "in a confined process, on a copy that was written from arrays alone",
    ("klprobe.formats.pythae", "pythae.models"): "classes of pythae by name, with settings; no files of its own are read",
    ("klprobe.formats.diffusers", "from_config"): "one class, built from settings; it reads no files",
    ("klprobe.files.python2_pickle", "pickle"): "an unpickler that makes arrays of bytes and refuses every other name",
    ("klprobe.evaluation.feature_net", "numpy.load"): "allow_pickle=False",
    ("klprobe.runtime.provenance", "subprocess"): "git, with fixed arguments",
    ("klprobe.files.tensor_file", "safetensors"): "tensors and text",
}


def names_used(source: str) -> set[str]:
    """Full names of all that a source refers to, whatever it is called there: `np.load` is `numpy.load`."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known |= {alias.asname: alias.name} if alias.asname else {alias.name.split(".")[0]: alias.name.split(".")[0]}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = set(known.values())
    for _ in range(3):  # names that stand for names that stand for names
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and (full := _full(node.value, known)):
                known |= {target.id: full for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call) and (full := _full(node, known)):
            found.add(full)
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def _full(node: ast.AST, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id, f"builtins.{node.id}")
    if isinstance(node, ast.Attribute):
        inner = _full(node.value, known)
        return None if inner is None else f"{inner}.{node.attr}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "__import__"):
        words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if node.func.id == "__import__":
            return str(words[0]) if words else "builtins.__import__"
        inner = _full(node.args[0], known)
        return None if inner is None else f"{inner}.{words[0]}" if words else inner
    return None


def dangers(source: str) -> set[str]:
    """Of the dangerous names, those that a source refers to."""
    used = {name.removeprefix("builtins.getattr.") for name in names_used(source)} - set(HARMLESS)
    found = {word for word in DANGEROUS for name in used if name == word or name.startswith(f"{word}.")}
    found |= {method for method in METHODS if method in used}
    covered = {method for method in METHODS for word in found if word.endswith(f".{method}")}
    return found - covered


MODULES = {
    ".".join(("klprobe", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
}


def test_whatever_could_run_what_a_file_says_is_declared_with_its_reason():
    used = {(module, name) for module, file in MODULES.items() for name in dangers(file.read_text())}
    assert used - set(DECLARED) == set(), "declare it with the reason why it is safe, or use what opens such files already"
    assert set(DECLARED) - used == set(), "declared, and no longer there"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch\ntorch.load(path)", "torch.load"),
        ("import torch as t\nt.jit.load(path)", "torch.jit.load"),
        ("from torch import jit as j\nj.load(path)", "torch.jit.load"),
        ("from torch.export import load as read\nread(path)", "torch.export.load"),
        ("def f(path):\n    from pickle import loads\n    return loads(path)", "pickle"),
        ("import numpy as np\nload = np.load\nread = load\nread(path)", "numpy.load"),
        ("import torch\ngetattr(torch, 'load')(path)", "torch.load"),
        ("import importlib\nimportlib.import_module(name)", "importlib.import_module"),
        ("__import__(name)", "builtins.__import__"),
        ("eval(text)", "builtins.eval"),
        ("run = exec\nrun(text)", "builtins.exec"),
        ("import builtins\nbuiltins.eval(text)", "builtins.eval"),
        ("__import__('pickle').loads(text)", "pickle"),
        ("import joblib\njoblib.load(path)", "joblib"),
        ("import scvi\ngetattr(scvi.model, name).load(path)", "scvi.model"),
        ("Model.from_pretrained(path)", "from_pretrained"),
        ("lazily().InferenceSession(path)", "InferenceSession"),
        ("from safetensors.torch import load_file\nload_file(path)", "safetensors"),
        ("import os\nos.system(line)", "os.system"),
    ],
)
def test_a_danger_is_found_under_any_name(source, name):
    assert name in dangers(textwrap.dedent(source))


def test_what_only_looks_dangerous_is_let_through():
    assert not dangers("import torch\nfrom pickle import UnpicklingError\nmodel.eval()\nkeeper.load()\ntorch.save(x, path)\n")
