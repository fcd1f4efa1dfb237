"""TorchScript, torch.export, state dicts and Lightning checkpoints of one VAE that plain torch trained."""

import io
import json
import pickle
import tracemalloc
import zipfile

import pytest
import torch

from klprobe.cli import main
from klprobe.formats import Request, load
from klprobe.types import InputError


def rewritten(source, target, change):
    """A copy of a zip file, entry by entry, as `change(name, content)` has it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return target


def refused(path, *flags):
    """Exit code 2, from the program itself."""
    return main(["estimate", "--checkpoint", str(path), "--methods", "monte-carlo", *flags]) == 2


# ---- TorchScript


@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_torchscript_encoder_gives_what_its_network_gives(encoder, x, data, tmp_path, agrees, how):
    path = tmp_path / "encoder.pt"
    (torch.jit.script(encoder) if how == "script" else torch.jit.trace(encoder, x[:8])).save(path)
    encoded = load(path, Request(data=data))
    agrees(encoded)
    told = json.loads(json.dumps(encoded.provenance, allow_nan=False))
    assert told["format"] == "torchscript"
    assert told["preprocessing"] == ["values as they are"]
    assert told["outputs"] == {"mean": "0", "logvar": "1"}
    assert any("read as mean and logvar" in note for note in encoded.notes)


def test_a_script_saved_in_training_mode_runs_in_eval_mode_and_says_so(encoder, data, tmp_path, agrees):
    scripted = torch.jit.script(encoder).train()
    scripted.save(tmp_path / "encoder.pt")
    encoded = load(tmp_path / "encoder.pt", Request(data=data))
    agrees(encoded)
    assert encoded.provenance["saved_in_training_mode"] is True
    assert any("training mode" in note for note in encoded.notes)


@pytest.mark.filterwarnings("ignore:.*:torch.jit.TracerWarning")
@pytest.mark.parametrize(("dropout", "word"), [(True, "dropout"), (False, "batch normalisation")])
def test_what_a_trace_froze_in_training_mode_is_found_by_running_it(network, x, data, tmp_path, dropout, word):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network.Encoder().train()
        module.body[3].train(dropout)
        torch.jit.trace(module, x[:8], check_trace=False).save(tmp_path / "encoder.pt")
    with pytest.raises(InputError, match=word):
        load(tmp_path / "encoder.pt", Request(data=data))


def test_points_of_another_shape_are_refused_with_what_is_wanted_and_given(encoder, tmp_path, shared_data):
    torch.jit.script(encoder).save(tmp_path / "encoder.pt")
    request = Request(data="mnist", split="test", data_root=shared_data)
    with pytest.raises(InputError, match=r"shape \(1, 28, 28\).*needs vectors of length 64"):
        load(tmp_path / "encoder.pt", request)


def test_a_script_that_mentions_files_is_not_run(tmp_path, data):
    class Reads(torch.nn.Module):
        def forward(self, x):
            return x + torch.from_file("secret", size=1)

    torch.jit.script(Reads()).save(tmp_path / "encoder.pt")
    with pytest.raises(InputError, match="names from_file"):
        load(tmp_path / "encoder.pt", Request(data=data))


def test_a_second_program_hidden_in_the_file_is_found(encoder, tmp_path, data):
    class Reads(torch.nn.Module):
        def forward(self, x):
            return x + torch.from_file("secret", size=1)

    for name, module in (("good", encoder), ("evil", Reads())):
        torch.jit.script(module).save(tmp_path / f"{name}.pt")
    with zipfile.ZipFile(tmp_path / "both.pt", "w") as both:
        for name in ("evil", "good"):
            with zipfile.ZipFile(tmp_path / f"{name}.pt") as one:
                for entry in one.namelist():
                    if name == "good" or "code" not in entry:
                        both.writestr(entry, one.read(entry))
        with zipfile.ZipFile(tmp_path / "evil.pt") as one:
            for entry in one.namelist():
                if "code" in entry:
                    both.writestr(entry, one.read(entry))
    assert refused(tmp_path / "both.pt", "--data", data)
    with pytest.raises(InputError, match="twice"):
        load(tmp_path / "both.pt", Request(data=data))


# ---- torch.export


@pytest.fixture(scope="module")
def exported(encoder, x, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "encoder.pt2"
    program = torch.export.export(encoder, (x[:8],), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, path)
    return path


def test_an_exported_program_gives_what_its_network_gives(exported, data, agrees):
    encoded = load(exported, Request(data=data))
    agrees(encoded)
    assert encoded.provenance["format"] == "exported-program"


def test_a_program_exported_for_one_batch_size_takes_any_number_of_points(encoder, x, tmp_path, agrees):
    torch.export.save(torch.export.export(encoder, (x[:500],)), tmp_path / "encoder.pt2")
    import numpy as np

    np.save(tmp_path / "few.npy", x[:1234].numpy())
    encoded = load(tmp_path / "encoder.pt2", Request(data=str(tmp_path / "few.npy")))
    agrees(encoded, x[:1234])
    assert any("500 points at a time" in note for note in encoded.notes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"torch.ops.aten.relu.default"', '"torch.load"'),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.from_file.default"'),
        ('"torch.ops.aten.relu.default"', '"#call"'),
        ('"use_pickle": false', '"use_pickle": true'),
        ('"expr_str": "', '"expr_str": "__import__(\'os\').getcwd() + '),
        ('"name": "x"', '"name": "x=open(1)"'),
    ],
)
def test_a_program_that_could_run_python_is_not_loaded(exported, tmp_path, data, old, new, capsys):
    changed = []

    def change(name, content):
        if name.endswith(".json") and old.encode() in content:
            changed.append(name)
            return content.replace(old.encode(), new.encode())
        return content

    path = rewritten(exported, tmp_path / "bad.pt2", change)
    assert changed, "the attack was placed"
    assert refused(path, "--data", data)
    assert "could run code" in capsys.readouterr().err


def test_guards_and_stack_traces_never_reach_torch(exported, tmp_path, data, agrees, monkeypatch):
    """They are source text; whatever they say, the program computes the same."""
    evil = json.dumps("open(1)\n")

    def change(name, content):
        if not name.endswith("models/model.json"):
            return content
        document = json.loads(content)
        document["guards_code"] = ["open(1)"]
        for node in document["graph_module"]["graph"]["nodes"]:
            node["metadata"]["stack_trace"] = evil
        return json.dumps(document).encode()

    agrees(load(rewritten(exported, tmp_path / "bad.pt2", change), Request(data=data)))


# ---- state dicts


@pytest.mark.parametrize("content", ["encoder", "model", "lightning", "parallel"])
def test_weights_find_their_place_in_the_network_that_the_factory_builds(vae, encoder, tmp_path, data, agrees, content):
    weights = vae.state_dict()
    saved = {
        "encoder": encoder.state_dict(),
        "model": weights,
        "lightning": {"epoch": 1, "state_dict": {f"model.{n}": t for n, t in weights.items()}, "hyper_parameters": {"lr": 0.1}},
        "parallel": {f"module.{n}": t for n, t in weights.items()},
    }[content]
    torch.save(saved, tmp_path / "weights.ckpt")
    encoded = load(tmp_path / "weights.ckpt", Request(data=data, encoder="tiny_network:Encoder"))
    agrees(encoded)
    assert (
        encoded.provenance["prefix"]
        == {
            "encoder": "",
            "model": "encoder.",
            "lightning": "model.encoder.",
            "parallel": "module.encoder.",
        }[content]
    )
    unused = (
        []
        if content == "encoder"
        else [encoded.provenance["prefix"].replace("encoder.", f"decoder.{n}") for n in ("weight", "bias")]
    )
    assert encoded.provenance["unused"] == unused


def test_tensors_that_may_be_the_models_own_prior_are_named(vae, tmp_path, data):
    torch.save({**vae.state_dict(), "pseudo_inputs.0.weight": torch.zeros(64, 5)}, tmp_path / "weights.pt")
    encoded = load(tmp_path / "weights.pt", Request(data=data, encoder="tiny_network:VAE"))
    assert any("pseudo_inputs.0.weight may be the model's own prior, which is not used" in note for note in encoded.notes)


def test_a_factory_of_the_whole_model_is_run_through_its_encode(vae, tmp_path, data, agrees):
    torch.save(vae.state_dict(), tmp_path / "weights.pt")
    encoded = load(tmp_path / "weights.pt", Request(data=data, encoder="tiny_network:VAE"))
    agrees(encoded)


def test_data_may_be_python_too(vae, tmp_path, agrees):
    torch.save(vae.state_dict(), tmp_path / "weights.pt")
    agrees(load(tmp_path / "weights.pt", Request(data="tiny_network:digits", encoder="tiny_network:VAE")))


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("tiny_network:too_wide", "does not fit tiny_network:too_wide"),
        ("tiny_network:digits", "returns a Tensor"),
        ("tiny_network:nothing", "has no nothing"),
        ("no_such_module:thing", "cannot be imported"),
        ("nonsense", "not of the form"),
    ],
)
def test_a_factory_that_does_not_serve_is_said_to(vae, tmp_path, data, factory, words):
    torch.save(vae.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=words):
        load(tmp_path / "weights.pt", Request(data=data, encoder=factory))


def test_a_checkpoint_that_lightning_wrote_loads(encoder, x, tmp_path, data, network):
    pytest.importorskip("lightning", reason="Lightning is not installed")
    import lightning

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network.VAE()

        def training_step(self, batch, _):
            return self.net(batch[0])[0].square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    with torch.random.fork_rng():
        model = Model()
        trainer = lightning.Trainer(
            max_steps=2,
            logger=False,
            enable_checkpointing=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[:64]), 32)
        trainer.fit(model, loader)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    encoded = load(tmp_path / "last.ckpt", Request(data=data, encoder="tiny_network:VAE", outputs="mean,logvar"))
    with torch.no_grad():
        mean, _ = model.net.eval().encode(x)
    torch.testing.assert_close(encoded.posterior.mean, mean, rtol=1e-4, atol=1e-5)
    assert encoded.provenance["prefix"] == "net."


# ---- what must never happen


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "model.pkl", "model.pt2", "model"])
@pytest.mark.parametrize("how", ["torch", "legacy", "plain"])
@pytest.mark.parametrize("flags", [(), ("--encoder", "tiny_network:VAE")])
def test_a_malicious_pickle_is_refused_and_runs_nothing(malice, tmp_path, data, name, how, flags, network, capsys):
    path = tmp_path / name
    held = {"state_dict": {"weight": torch.zeros(2)}, "hyper_parameters": malice}
    if how == "plain":
        path.write_bytes(pickle.dumps(malice))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=how == "torch")
    assert refused(path, "--data", data, *flags)
    assert not malice.mark.exists()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_pickle_inside_a_script_or_program_runs_nothing(encoder, exported, malice, tmp_path, data, agrees):
    """torch 2.13 falls back to full unpickling for a program's sample inputs: they are never handed over."""
    script = tmp_path / "encoder.pt"
    torch.jit.script(encoder).save(script)
    evil = pickle.dumps(malice)
    buffer = io.BytesIO()
    torch.save(malice, buffer)

    def change(name, content):
        return buffer.getvalue() if name.endswith("model.pt") else evil if name.endswith("pkl") else content

    assert refused(rewritten(script, tmp_path / "bad.pt", change), "--data", data)
    agrees(load(rewritten(exported, tmp_path / "bad.pt2", change), Request(data=data)))
    assert not malice.mark.exists()


@pytest.mark.parametrize("kind", ["script", "weights", "program"])
def test_a_zip_bomb_is_refused_in_bounded_memory(tmp_path, data, kind, network, capsys):
    path = tmp_path / "bomb.pt"
    names = {"script": "a/code/b.py", "weights": "a/data/0", "program": "a/models/model.json"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other in ("a/constants.pkl", "a/data.pkl") if kind != "program" else ("a/archive_format",):
            archive.writestr(other, b"x")
        with archive.open(names[kind], "w", force_zip64=True) as stream:
            for _ in range(200):
                stream.write(bytes(1 << 20))
    tracemalloc.start()
    assert refused(path, "--data", data, *(("--encoder", "tiny_network:VAE") if kind == "weights" else ()))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert "zip bomb" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [10, 1000, -100])
@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_file_cut_short_is_refused(encoder, exported, tmp_path, data, keep, suffix):
    whole = exported
    if suffix == ".pt":
        whole = tmp_path / "encoder.pt"
        torch.jit.script(encoder).save(whole)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:keep])
    assert refused(cut, "--data", data)


def test_the_program_says_what_it_did_on_stderr_and_keeps_it_in_the_report(encoder, data, tmp_path, capsys):
    torch.jit.script(encoder).save(tmp_path / "encoder.pt")
    flags = [
        "--data",
        data,
        "--range",
        "-1,1",
        "--outputs",
        "mean,logvar",
        "--methods",
        "monte-carlo",
        "--num-samples",
        "50",
        "--json",
    ]
    assert main(["estimate", "--checkpoint", str(tmp_path / "encoder.pt"), *flags]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)["provenance"]
    assert told["preprocessing"] == ["values as they are", "[0, 1] to [-1, 1]"]
    assert told["outputs"] == {"mean": "0", "logvar": "1"}
    assert "1,797 points of x.npy as (64,): values as they are, [0, 1] to [-1, 1]" in err


@pytest.mark.parametrize("flags", [("--resize", "0"), ("--resize", "8x"), ("--range", "0,2"), ("--outputs", "mean,mean")])
def test_flags_that_make_no_sense_are_refused(encoder, data, tmp_path, flags):
    torch.jit.script(encoder).save(tmp_path / "encoder.pt")
    assert refused(tmp_path / "encoder.pt", "--data", data, *flags)


def test_weights_in_safetensors_serve_a_factory_as_well(encoder, data, tmp_path, agrees):
    from safetensors.torch import save_file

    save_file(encoder.state_dict(), tmp_path / "weights.safetensors")
    agrees(load(tmp_path / "weights.safetensors", Request(data=data, encoder="tiny_network:Encoder")))
