"""The quickstart from end to end, with a small network and few images: every stage real, only less of it."""

import json
import subprocess
import sys

from conftest import ROOT

SMALL = """
from pathlib import Path
import sys
from synthclone import quickstart
quickstart.TRAINING = Path(sys.argv[1])
raise SystemExit(quickstart.command(["--output", sys.argv[2], "--per-class", "8", "--steps", "3"]))
"""


def run_small(recipe, folder):
    return subprocess.run([sys.executable, "-c", SMALL, str(recipe), str(folder)], capture_output=True, text=True)


def test_all_stages_and_again(tmp_path):
    recipe, folder = tmp_path / "small.yaml", tmp_path / "out"
    text = (ROOT / "train" / "digits.yaml").read_text()
    recipe.write_text(text.replace("resnet50", "resnet18") + "\n")
    lines = [
        line for line in recipe.read_text().splitlines() if not line.startswith(("epochs", "warmup", "save_every"))
    ]
    recipe.write_text("\n".join([*lines, "epochs: 1", "warmup_epochs: 0", "save_every: 1"]))
    first = run_small(recipe, folder)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout.splitlines()[-1])
    assert {"top1_synthetic", "top1_real", "num_synthetic", "num_test", "seconds"} <= set(result)
    assert (result["num_synthetic"], result["num_test"]) == (80, 597)
    assert 0 <= result["top1_synthetic"] <= 1 and result["seconds"] > 0
    page = (folder / "report.html").read_text()
    assert page.count("<img") == 10 * 12 and f"{result['top1_real']:.1%}" in page
    again = run_small(recipe, folder)
    assert again.returncode == 0, again.stderr
    repeated = json.loads(again.stdout.splitlines()[-1])
    assert {name: repeated[name] for name in ("top1_synthetic", "top1_real")} == {
        name: result[name] for name in ("top1_synthetic", "top1_real")
    }
    assert "up to date" in again.stdout
    other = subprocess.run(
        [sys.executable, "-m", "synthclone.cli", "quickstart", "--output", str(folder), "--seed", "5"],
        capture_output=True,
        text=True,
    )
    assert other.returncode == 2 and "holds another data set" in other.stderr.splitlines()[-1]
