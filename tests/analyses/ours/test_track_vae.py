import pathlib
import subprocess
import sys

import klprobe

ROOT = pathlib.Path(klprobe.__file__).parents[1]


def test_the_example_trains_tracks_and_draws(tmp_path):
    out = tmp_path / "track.png"
    program = [sys.executable, "-m", "analyses.ours.track_vae", "--epochs", "3", "--out", str(out)]
    run = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "epoch 3: KL[q||p] between" in run.stdout
    assert out.read_bytes().startswith(b"\x89PNG")
