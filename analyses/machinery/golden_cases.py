"""What `analyses.golden` runs: commands with fixed seeds and small settings, what they are run on, and calls of the library.

Everything that is needed is made here, in a folder; no data and no records of this machine are read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file


@dataclass(frozen=True)
class Case:
    """Commands that run one after the other in the work folder; what they leave in the folder `name` is theirs.

    Attributes:
        commands: Each as it is typed after `klprobe`, or `library NAME` for a function of `LIBRARY`; `{out}` is `name`.
    """

    name: str
    commands: tuple[str, ...]


METHODS = """
--classifier.steps 60 --classifier.num-samples 1500 --classifier.num-prior-samples 1500 --classifier.moment-samples 1000
--critic.steps 60 --critic.num-samples 1500 --critic.num-prior-samples 1500 --critic.moment-samples 1000
--denoising.steps 60 --denoising.num-samples 1500 --denoising.moment-samples 1000
--gaussianized.steps 60 --gaussianized.num-samples 1500 --gaussianized.num-prior-samples 1500
--gaussianized.moment-samples 1000 --gmm.steps 40 --gmm.num-samples 1500 --gmm.components 5 --knn.num-samples 1500
--least-squares.centres 50 --least-squares.fit-samples 1000 --least-squares.num-samples 1500
--lstm.steps 20 --lstm.num-samples 1000 --lstm.width 16 --maf.steps 30 --maf.num-samples 1500 --maf.width 32 --maf.flows 2
--telescoping.steps 60 --telescoping.num-samples 1500 --telescoping.num-prior-samples 1500 --telescoping.moment-samples 1000
--monte-carlo.num-samples 1000
"""
"""Settings with which every method takes seconds."""
FEW = "--methods closed-form monte-carlo gmm"
ESTIMATES = {
    "npz": "posterior.npz",
    "npy-folder": f"posterior {FEW}",
    "safetensors": f"posterior.safetensors {FEW}",
    "full-covariance": "full.npz",
    "levels": "levels.npz",
    "categorical": "categorical.npz",
    "samples": "samples.npz",
    "klprobe-checkpoint": "train/vae/checkpoint.safetensors --split test",
    "torchscript": f"encoder.pt --data points.npy {FEW}",
    "exported-program": f"encoder.pt2 --data points.npy {FEW}",
    "state-dict": f"weights.safetensors --encoder own_encoder:network --data points.npy {FEW}",
    "prior-normal": "posterior.npz --prior normal:mean=0.1:scale=2",
    "prior-sphere": "sphere.npz --prior sphere",
    "prior-mixture": f"posterior.npz --prior mixture:prior.npz {FEW}",
    "prior-flow": f"posterior.npz --prior flow:estimate/method-maf/flow.safetensors {FEW}",
    "prior-samples": "posterior.npz --prior samples:prior_samples.npz",
    "prior-vampprior": f"encoder.pt --data points.npy --prior vampprior:pseudo_inputs.npy {FEW}",
    "blocks": "many.npz --methods monte-carlo closed-form --num-samples 9000",
    "tolerance": "posterior.npz --methods monte-carlo --tolerance 0.02",
    "many-latents": "wide.npz --methods monte-carlo closed-form classifier denoising",
}
"""`--checkpoint` and what follows it; `--methods auto` where none are named."""
TRAIN = "--steps 30 --log-every 10 --pictures-every 30"
SYSTEMS = {"draw": "--glances 4"}
"""Flags of a system beside `TRAIN`."""
VARIANTS = {
    "vae-ring": f"vae --dataset ring --visible laplace --width 32 {TRAIN}",
    "aae-gan-ring": f"aae-gan --dataset ring --width 32 {TRAIN}",
    "bms-vae-gan-ring": f"bms-vae-gan --dataset ring --width 32 {TRAIN}",
    "vae-images": "vae --dataset images.npz --steps 5 --batch-size 16 --log-every 1 --pictures-every 5",
    "draw-attention": "draw --dataset images.npz --attention both --glances 3 --latent-dim 12 --steps 3 --log-every 1",
    "iwgan-classes": f"iwgan --dataset digits --conditional {TRAIN}",
    "aavae-few-labels": f"aavae --dataset digits --labelled 200 {TRAIN}",
    "vae-bf16": f"vae --dataset digits --precision bf16 --decay-steps 30 {TRAIN}",
}
QUICK_METRICS = """
--cache caches/{out} --num-samples 300 --fid.divisions 3 --critic.steps 20 --prdc.points 200
--c2st.steps 5 --c2st.permutations 20 --c2st.points 200
--c2st-latents.steps 5 --c2st-latents.permutations 20 --c2st-latents.points 200
--ivom.steps 20 --ivom.points 20 --elbo.draws 8 --elbo.points 100
"""
EVALUATIONS = {
    "vae": ("vae", "--metrics fid prdc c2st elbo latents c2st-latents ivom critic --net values --out {out}"),
    "ring": ("aae-gan-ring", "--metrics modes latents fid --net values --json"),
    "images": ("vae-images", "--metrics ms-ssim elbo --ms-ssim.scales 2 --ms-ssim.kernel 5 --net values --json"),
    "classes": ("iwgan-classes", "--metrics accuracy inception-score --net train/classifier/checkpoint.safetensors --json"),
    "few-labels": ("aavae-few-labels", "--metrics own-accuracy --net values --json"),
    "own-net": ("dcgan", "--metrics fid inception-score prdc --net own --net-steps 30 --json"),
}
"""System, and flags."""
SYNTHETIC = "--dims 1 3 --seeds 1 --steps 60 --classifier-width 16 --logged 5 --log-draws 500 --out {out}"
PICTURES = {
    "sample": ("vae", "aae-gan-ring", "iwgan-classes", "vae-images"),
    "reconstruct": ("vae", "aae-gan-ring", "aavae-few-labels", "draw"),
}
"""Systems whose samples, or reconstructions, are drawn."""


def first_cases(methods: list[str], systems: list[str]) -> list[Case]:
    """Every system and every method that `klprobe list` names; later cases take up what is trained and fitted here."""
    cases = [train(name, f"{name} --dataset digits {TRAIN} {SYSTEMS.get(name, '')}") for name in systems]
    cases += [train(name, command) for name, command in VARIANTS.items()]
    save = {"maf": "--maf.save {out}/flow.safetensors"}
    return cases + [estimate(f"method-{name}", f"posterior.npz --methods {name} {save.get(name, '')}") for name in methods]


def train(name: str, command: str) -> Case:
    return Case(f"train/{name}", (f"train {command} --out {{out}}",))


def estimate(name: str, flags: str) -> Case:
    return Case(f"estimate/{name}", (f"estimate {METHODS} --json --checkpoint {flags}",))


def checkpoint_of(name: str) -> str:
    return f"train/{name}/checkpoint.safetensors"


def later_cases() -> list[Case]:
    """Everything else."""
    cases = [estimate(name, flags) for name, flags in ESTIMATES.items()]
    cases += [Case("estimate/files", (f"estimate {METHODS} --checkpoint posterior.npz --out {{out}}",))]
    cases += [Case("demo", ("demo --methods monte-carlo gmm --gmm.steps 40 --num-samples 1000 --split test --json",))]
    cases += [Case("holes/npz", ("holes --checkpoint posterior.npz --num-samples 1000 --out {out}",))]
    system = f"holes --checkpoint {checkpoint_of('vae')} --split test --num-samples 500 --quantile 0.05 --json"
    cases += [Case("holes/checkpoint", (system,))]
    for name, (system, flags) in EVALUATIONS.items():
        cases.append(Case(f"evaluate/{name}", (f"evaluate --checkpoint {checkpoint_of(system)} {QUICK_METRICS} {flags}",)))
    both = f"{checkpoint_of('vae')} {checkpoint_of('bms-vae')}"
    cases += [Case("compare", (f"compare {both} {QUICK_METRICS} --metrics fid prdc --net values --out {{out}}",))]
    cases += [Case(f"synthetic/{name}", (f"synthetic {name} {SYNTHETIC}",)) for name in ("estimate", "minimize")]
    for command, names in PICTURES.items():
        picture = f"{command} --checkpoint {{}} --num 20 --out {{{{out}}}}/picture.png"
        cases += [Case(f"{command}/{name}", (picture.format(checkpoint_of(name)),)) for name in names]
    whole = train("resumed", f"vae --dataset digits {TRAIN}").commands[0]
    cases += [Case("train/resumed", (whole.replace("--steps 30", "--steps 15"), f"{whole} --resume"))]
    return [*cases, *(Case(f"library/{name}", (f"library {name}",)) for name in LIBRARY)]


def make_inputs(folder: Path) -> None:
    """Posteriors, priors, encoders and data that the cases name."""
    g = np.random.default_rng(0)

    def spread(*shape: int) -> np.ndarray:
        return (0.3 + 0.5 * g.random(shape)).astype(np.float32)

    def normal(*shape: int) -> np.ndarray:
        return g.standard_normal(shape).astype(np.float32)

    mean, std = 0.8 * normal(400, 4), spread(400, 4)
    np.savez(folder / "posterior.npz", mean=mean, logvar=2 * np.log(std), split="test", trained_on="train")
    (folder / "posterior").mkdir()
    np.save(folder / "posterior" / "mean.npy", mean)
    np.save(folder / "posterior" / "std.npy", std)
    save_file({"mean": torch.from_numpy(mean), "var": torch.from_numpy(std**2)}, folder / "posterior.safetensors")
    lower = np.tril(0.2 * normal(300, 3, 3), -1) + np.eye(3, dtype=np.float32) * spread(300, 1, 3)
    np.savez(folder / "full.npz", mean=mean[:300, :3], scale_tril=lower)
    pairs = {f"mean_{i}": mean[:, 2 * i : 2 * i + 2] for i in (0, 1)} | {f"std_{i}": std[:, 2 * i : 2 * i + 2] for i in (0, 1)}
    np.savez(folder / "levels.npz", **pairs)
    np.savez(folder / "categorical.npz", mean=mean, std=std, logits=normal(400, 5))
    np.savez(folder / "samples.npz", samples=normal(800, 3) * [1.0, 1.5, 0.7])
    np.savez(folder / "many.npz", mean=normal(9000, 3), std=spread(9000, 3))
    np.savez(folder / "wide.npz", mean=normal(300, 150), std=spread(300, 150))
    points = normal(400, 3)
    np.savez(folder / "sphere.npz", samples=points / np.linalg.norm(points, axis=1, keepdims=True))
    np.savez(folder / "prior.npz", mean=normal(6, 4), std=spread(6, 4), weights=np.arange(1.0, 7.0) / 21)
    np.savez(folder / "prior_samples.npz", samples=normal(1500, 4))
    np.save(folder / "points.npy", normal(300, 8))
    np.save(folder / "pseudo_inputs.npy", normal(10, 8))
    light = g.random((240, 1, 1, 1)) * g.random((240, 1, 28, 28))
    np.savez(folder / "images.npz", x_train=(255 * light[:160]).astype(np.uint8), x_test=(255 * light[160:]).astype(np.uint8))
    make_encoders(folder, torch.from_numpy(0.4 * normal(6, 8)))


class Linear(torch.nn.Module):
    """Mean and log-variance of three latents, linear in eight numbers."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shape (batch, 8) to two of shape (batch, 3)."""
        mean, logvar = (x @ self.weight.T).chunk(2, 1)
        return mean, logvar - 2


OWN_ENCODER = """
import torch

class Linear(torch.nn.Linear):
    def forward(self, x):
        mean, logvar = super().forward(x).chunk(2, 1)
        return {"mean": mean, "logvar": logvar - 2}

def network():
    return Linear(8, 6, bias=False)
"""


def make_encoders(folder: Path, weight: torch.Tensor) -> None:
    encoder, x = Linear(weight).eval(), torch.zeros(2, 8)
    torch.jit.trace(encoder, x).save(str(folder / "encoder.pt"))
    program = torch.export.export(encoder, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "encoder.pt2")
    save_file({"weight": weight}, folder / "weights.safetensors")
    (folder / "own_encoder.py").write_text(OWN_ENCODER)


def library_estimate() -> Any:
    import klprobe
    from klprobe.problems import linear_gaussian_encoder

    problem = linear_gaussian_encoder(4, 600, std=0.3, generator=torch.Generator().manual_seed(0))
    report = klprobe.estimate(problem.posterior, problem.prior, methods=["monte-carlo", "knn"])
    return {"population_kl": problem.population_kl, "report": report.to_dict(), "rows": report.to_pandas().to_dict("records")}


def library_full_covariance() -> Any:
    from torch.distributions import MultivariateNormal

    import klprobe

    g = torch.Generator().manual_seed(1)
    scale = torch.tril(0.2 * torch.randn(200, 3, 3, generator=g), -1) + torch.eye(3) * 0.6
    posterior = MultivariateNormal(torch.randn(200, 3, generator=g), scale_tril=scale)
    prior = MultivariateNormal(torch.zeros(3), torch.eye(3))
    return klprobe.estimate(posterior, prior, methods=["closed-form", "monte-carlo"], seed=3).to_dict()


def library_track() -> Any:
    import klprobe
    from klprobe.problems import linear_gaussian_encoder

    problem = linear_gaussian_encoder(3, 500, std=0.4, generator=torch.Generator().manual_seed(2))
    g = torch.Generator().manual_seed(3)
    encoder, data = Linear(0.4 * torch.randn(6, 8, generator=g)), torch.randn(500, 8, generator=g)
    return {"posterior": klprobe.track(problem.posterior), "encoder": klprobe.track(encoder, data, outputs="mean,logvar")}


LIBRARY: Mapping[str, Callable[[], Any]] = {
    "estimate": library_estimate,
    "full-covariance": library_full_covariance,
    "track": library_track,
}


if __name__ == "__main__":  # a case's process
    print(json.dumps(LIBRARY[sys.argv[1]]()))
