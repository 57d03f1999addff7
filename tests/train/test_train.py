"""The training command: runs, resumes after a kill, two ranks, and one line for each mistake."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors import safe_open

from synthclone.train.checkpoint import load_checkpoint
from synthclone.train.ranks import free_port, without_launcher_options
from synthclone.train.train import command

TINY = (
    *("--arch", "resnet18", "--batch-size", "16", "--global-size", "24", "--num-local", "2", "--local-size", "20"),
    *("--no-flip", "--colour", "none", "--warmup-epochs", "1", "--num-threads", "1", "--precision", "fp32"),
)


def weights(run) -> dict[str, torch.Tensor]:
    with safe_open(run / "checkpoints" / "last.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def words(data, output, *more) -> list[str]:
    return [str(word) for word in ("--data", data, "--output", output, *TINY, *more)]


@pytest.fixture(scope="module")
def unbroken(striped, tmp_path_factory):
    """A run of three epochs in one go."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    assert command(words(striped, output, "--epochs", 3)) == 0
    return output


def test_a_run_leaves_config_log_checkpoints_and_results(unbroken, striped) -> None:
    rows = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert {"loss", "top1_train_crops", "images_per_s", "data_wait_s", "compute_s"} <= set(row)
        assert row["images_per_s"] > 0
        assert row["compute_s"] > 0
    assert rows[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    assert yaml.safe_load((unbroken / "config.yaml").read_text())["global_size"] == 24
    results = json.loads((unbroken / "results.json").read_text())
    assert (results["num_images"], results["num_quarantined"], results["num_classes"]) == (48, 0, 10)
    model, metadata = load_checkpoint(unbroken / "checkpoints" / "last.safetensors")
    assert (metadata.arch, metadata.image_size, metadata.epoch) == ("resnet18", 24, 3)
    assert metadata.classes == tuple("abcdefghij")
    assert model.fc.weight.shape == (10, 512)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_a_killed_run_goes_on_to_the_same_weights(unbroken, striped, shards, tmp_path) -> None:
    output = tmp_path / "run"
    line = words(striped, output, "--epochs", 3)
    state = output / "checkpoints" / "state.safetensors"
    process = subprocess.Popen(
        [sys.executable, "train/train.py", *line], cwd=shards.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not state.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    with safe_open(state, framework="pt") as file:
        assert json.loads(file.metadata()["synthclone"])["epoch"] in (1, 2)
    assert not (output / "results.json").exists()

    assert command(line) == 0
    expected = weights(unbroken)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(output).items())
    rows = [json.loads(row) for row in (output / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_a_finished_run_is_left_as_it_is(unbroken, striped) -> None:
    before = {file: file.stat().st_mtime_ns for file in unbroken.rglob("*") if file.is_file()}
    assert command(words(striped, unbroken, "--epochs", 3)) == 0
    assert {file: file.stat().st_mtime_ns for file in unbroken.rglob("*") if file.is_file()} == before


def test_bf16_learns_the_stripes(striped, tmp_path) -> None:
    line = words(striped, tmp_path / "run", "--epochs", 12, "--precision", "bf16", "--learning-rate", 0.02)
    assert command([*line, "--global-scale", "[0.9,1.0]", "--save-every", "20", "--num-local", "0"]) == 0
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert weights(tmp_path / "run")["conv1.weight"].dtype == torch.float32


def test_two_ranks_under_the_deepspeed_launcher(striped, shards, tmp_path) -> None:
    output = tmp_path / "run"
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    launched = shards.python(
        *("-m", "deepspeed.launcher.launch", "--world_info=eyJsb2NhbGhvc3QiOiBbMCwgMV19"),  # {"localhost": [0, 1]}
        *(f"--master_port={free_port()}", "train/train.py", *words(striped, output, "--epochs", 1)),
        env=environment,
    )
    assert launched.returncode == 0, launched.stderr
    results = json.loads((output / "results.json").read_text())
    assert (results["num_ranks"], results["num_images"], results["epoch"]) == (2, 48, 1)
    assert all(tensor.isfinite().all() for tensor in weights(output).values())


def test_two_ranks_hold_the_same_weights_after_a_step(shards, tmp_path) -> None:
    script = tmp_path / "step.py"
    script.write_text(
        """
import torch
from synthclone.train import fit, ranks
from synthclone.train.recipe import MultiCrop
from synthclone.export.resnet import make_model

rank = ranks.join()
model = make_model("resnet18", num_classes=4, generator=torch.Generator().manual_seed(0))
start = model.conv1.weight.detach().clone()
engine = fit.make_engine(MultiCrop(model, 0.0), weight_decay=1e-4, batch_size=4, precision="bf16")
generator = torch.Generator().manual_seed(rank.rank)
for group in engine.optimizer.param_groups:
    group["lr"] = 0.1
for _ in range(2):
    loss, _ = engine([torch.randn(4, 3, 32, 32, generator=generator)], torch.tensor([0, 1, 2, 3]))
    engine.backward(loss)
    engine.step()
flat = torch.cat([p.detach().flatten() for p in model.parameters()])
everyone = [torch.empty_like(flat) for _ in range(rank.world_size)]
torch.distributed.all_gather(everyone, flat)
assert rank.world_size == 2
assert not torch.equal(start, model.conv1.weight)
assert torch.equal(everyone[0], everyone[1])
print("equal")
"""
    )
    launched = shards.python(
        *("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", script),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("equal") == 2


def test_launcher_options_are_dropped() -> None:
    assert without_launcher_options(["--local_rank=1", "--data", "x"]) == ["--data", "x"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "0"], "--epochs is 0; give 1 or more"),
        (["--learning-rate", "-1"], "--learning-rate is -1.0; give a positive number"),
        (["--global-scale", "[0.9,0.1]"], "global_scale is 0.9, 0.1"),
        (["--label-smoothing", "1"], "--label-smoothing is 1.0"),
        (["--crop-ratio", "0"], "--crop-ratio is 0.0"),
        (["--arch", "resnet51"], "resnet50"),
        (["--batch-size", "64"], "48 readable images for rank 0, less than one batch of 64"),
        (["--precision", "bf16", "--local-size", "16"], "crops of 16 pixels have no right gradient in bf16"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(more, message, striped, tmp_path, capsys) -> None:
    assert exit_code(words(striped, tmp_path / "run", *more)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_bad_data_folders_are_named(striped, tmp_path, capsys) -> None:
    (tmp_path / "no shards").mkdir()
    (tmp_path / "no shards" / "dataset.json").write_bytes((striped / "dataset.json").read_bytes())
    (tmp_path / "cut").mkdir()
    for file in striped.iterdir():
        data = file.read_bytes()
        (tmp_path / "cut" / file.name).write_bytes(data[:-2000] if file.name == "000001.tar" else data)
    for folder, message in (
        ("nowhere", "nowhere is no data set"),
        ("no shards", "no shards has no finished shard"),
        ("cut", "000001.tar has "),
    ):
        assert exit_code(words(tmp_path / folder, tmp_path / "run")) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_refused(unbroken, striped, capsys) -> None:
    assert exit_code(words(striped, unbroken, "--epochs", 3, "--seed", 7)) == 2
    assert f"{unbroken} holds a run with seed 0, not 7; give another --output" in capsys.readouterr().err


def exit_code(line: list[str]) -> int:
    """A command's exit code, whether it returns it or the parser exits with it."""
    try:
        return command(line)
    except SystemExit as stop:
        return int(str(stop.code))
