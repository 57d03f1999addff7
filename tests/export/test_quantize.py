"""8-bit U-Nets of the embedded generator, calibrated by the real modelopt: error, images, key, and bad input."""

import collections
import copy
import importlib.util
import json
import shutil

import onnx
import pytest
import torch
from support import DIGITS_MODEL, run_command

from synthclone.engines import artifact, onnxruntime_backend, parity
from synthclone.engines.backend import Runtime
from synthclone.engines.onnx_operators import check_operators
from synthclone.engines.spec import EngineSpec
from synthclone.export import calibration, components
from synthclone.export import checkpoint as checkpoints
from synthclone.export.build import command as build
from synthclone.export.list_engines import command as list_engines
from synthclone.export.pipeline import open_pipeline
from synthclone.export.quantized_layers import Amplitudes, QuantizedLayer
from synthclone.export.refit import command as refit
from synthclone.gen.embeddings import Embeddings
from synthclone.gen.plan import PlannedImage
from synthclone.gen.sampler import Sampler
from synthclone.gen.solvers import make_steps
from synthclone.gen.write_prompts import command as write_prompts

CPU = torch.device("cpu")
CLASSES = "[tench, goldfish, hen]"
PROMPTS = ("one", "two", "three", "four")


@pytest.fixture(scope="session", params=["int8", "fp8"])
def quantized(request, quantized_engines):
    """A folder of engines with a U-Net in 8 bits, and the format."""
    return quantized_engines(request.param), request.param


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


def words(folder, prompts, form="int8", *more):
    common = ("--model", DIGITS_MODEL, "--batch", "1:4:8", "--device", "cpu", "--output", folder)
    return (*common, "--quantize", form, "--calibration", prompts, *more)


def images(pipeline):
    planned = [
        PlannedImage(
            index=i,
            label=i,
            class_key=str(i),
            serial=0,
            prompt=PROMPTS[i],
            seed=f"{i + 1:032x}",
        )
        for i in range(4)
    ]
    steps = make_steps("ddim", 10, pipeline.info["scheduler"])
    sampler = Sampler(pipeline=pipeline, text=Embeddings(pipeline), steps=steps, guidance=2.0, batch=len(planned))
    return sampler.images(planned).float()


def test_images_stay_near_those_of_fp32(quantized, pipeline):
    folder, form = quantized
    difference = images(open_pipeline(folder, CPU)) - images(pipeline)
    psnr_db = 10 * torch.log10(255**2 / difference.pow(2).mean())
    print(f"{form}: PSNR {psnr_db:.1f} dB, mean difference {difference.abs().mean():.2f} of 255")
    assert psnr_db > {"int8": 38, "fp8": 33}[form]


def test_graph_is_in_8_bits_within_tensorrts_operators(quantized):
    folder, form = quantized
    path = folder / "unet" / "model.onnx"
    check_operators(path)
    model = onnx.load(str(path))
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20}
    kind = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}[form]
    types = collections.Counter(tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1)
    assert types[kind] == 154
    counts = collections.Counter(node.op_type for node in model.graph.node)
    assert counts["DequantizeLinear"] == 154 + counts["QuantizeLinear"]
    names = {tensor.name for tensor in model.graph.initializer if tensor.data_type == kind and len(tensor.dims) > 1}
    assert not any(kept in name for name in names for kept in calibration.KEPT_LAYERS)


def test_manifest_and_table_say_so(quantized, capsys):
    folder, form = quantized
    manifest = artifact.read_manifest(folder / "unet")
    assert manifest["source"]["quantization"] == form and len(manifest["source"]["calibration"]) == 64
    errors = manifest["parity"]
    assert 1e-3 < errors["optimum_vs_reference"] < parity.QUANTIZED_TOLERANCE[form] / 2
    assert max(error for name, error in errors.items() if "_vs_reference" not in name) < 1e-5
    info = json.loads((folder / "pipeline.json").read_text())["quantization"]
    assert (info["prompts"], info["steps"], info["seed"]) == (list(PROMPTS), 20, 0)
    assert "quantization" not in artifact.read_manifest(folder / "vae_decoder")["source"]
    assert run_command(list_engines, folder) == 0
    assert f"fp32+{form}" in capsys.readouterr().out


def test_a_second_build_measures_nothing_and_other_prompts_measure_again(
    quantized_engines, prompts, tmp_path, monkeypatch
):
    folder, form = quantized_engines("int8"), "int8"
    measured = []
    monkeypatch.setattr(calibration, "_measure", lambda *arguments: measured.append(arguments))
    assert run_command(build, *words(folder, prompts, form)) == 0
    assert not measured
    other = tmp_path / "other.txt"
    other.write_text("nine\n")
    monkeypatch.setattr(calibration, "_measure", lambda *arguments: pytest.fail("measures again, as it should"))
    with pytest.raises(pytest.fail.Exception, match="measures again"):
        build([str(word) for word in words(folder, other, form)])


@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("layer", [torch.nn.Linear(16, 8), torch.nn.Conv2d(16, 8, 3, padding=1)])
def test_a_layer_computes_what_modelopts_own_fake_quantization_does(tmp_path, form, layer):
    import modelopt.torch.quantization as mtq
    import onnxruntime

    torch.manual_seed(0)
    layer, plain = copy.deepcopy(layer), copy.deepcopy(layer)  # modelopt converts in place
    sample = torch.randn(4, 16) if isinstance(layer, torch.nn.Linear) else torch.randn(4, 16, 6, 6)
    fake = mtq.quantize(torch.nn.Sequential(layer), calibration.modelopt_config(form), lambda module: module(sample))[0]
    weight = fake.weight_quantizer.amax
    amplitudes = Amplitudes(
        input=fake.input_quantizer.amax.reshape(()), weight=weight.flatten() if form == "int8" else weight.reshape(())
    )
    program = torch.export.export(QuantizedLayer(copy.deepcopy(plain), amplitudes, form), (sample,))
    torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "layer.onnx"), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: sample.numpy()})
    with torch.no_grad():
        assert parity.relative_error(torch.from_numpy(output), fake(sample)) < 1e-6
        assert parity.relative_error(torch.from_numpy(output), plain(sample)) > 3e-3


def test_the_gate_refuses_scales_that_are_wrong(quantized_engines, tmp_path):
    folder, form = quantized_engines("int8"), "int8"
    shutil.copytree(folder / "unet", tmp_path / "unet")
    model = onnx.load(str(tmp_path / "unet" / "model.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("input_scale"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) / 8, tensor.name))
    onnx.save(model, str(tmp_path / "unet" / "model.onnx"))
    spec = EngineSpec.from_json(artifact.read_manifest(folder / "unet")["spec"])
    engine = onnxruntime_backend.load(tmp_path / "unet", spec, CPU, lambda config: None, Runtime())
    reference = components.load_module(checkpoints.find(str(DIGITS_MODEL)), "unet")
    with pytest.raises(parity.ParityError, match=rf"engine unet is wrong: .* of fp32\+{form}"):
        parity.check(engine, reference, "fp32", quantization=form)


def test_a_quantized_engine_is_not_refitted(quantized_engines, tmp_path, capsys):
    folder = quantized_engines("int8")
    manifest = json.loads((folder / "unet" / "manifest.json").read_text())
    engine = tmp_path / "unet"
    engine.mkdir()
    (engine / "manifest.json").write_text(json.dumps(manifest | {"backend": "tensorrt"}))
    assert run_command(refit, "--engine", engine, "--lora", "x.safetensors") == 2
    assert "is quantized to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--backend", "eager"), "does not go with backend eager; use --backend onnxruntime or tensorrt"),
        (("--backend", "inductor"), "does not go with backend inductor"),
        (("--options", '{"gpu_provider": "tensorrt"}'), "does not go with gpu_provider tensorrt"),
        (("--quantize", "none"), "give both or none"),
        (("--quantize", "int4"), "int4"),
        (("--calibration", "nowhere.txt"), "nowhere.txt is no file; write one with `synthclone prompts"),
        (("--calibration", "EMPTY"), "holds no prompt"),
        (("--calibration", "BINARY"), "is not UTF-8 text"),
    ],
)
def test_bad_input(tmp_path, prompts, capsys, more, message):
    (tmp_path / "EMPTY").write_text("\n \n")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe\x00")
    more = [tmp_path / word if word in {"EMPTY", "BINARY"} else word for word in more]
    assert run_command(build, *words(tmp_path / "out", prompts), *more) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_modelopt_the_extra_is_named(tmp_path, prompts, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "modelopt" else find(name, *rest)
    )
    assert run_command(build, *words(tmp_path / "out", prompts)) == 2
    assert "pip install synthclone[quantization]" in capsys.readouterr().err


def test_prompts_of_a_class_list(tmp_path, capsys):
    classes, path = tmp_path / "classes.yaml", tmp_path / "new" / "prompts.txt"
    classes.write_text(CLASSES)
    words = ("--classes", classes, "--output", path)
    chosen = []
    for seed in (0, 0, 1):
        assert run_command(write_prompts, *words, "--count", 7, "--seed", seed) == 0
        chosen.append(path.read_text().splitlines())
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 7 and set(chosen[0]) == {"tench", "goldfish", "hen"}
    assert calibration.read_prompts(path) == tuple(chosen[2])
    assert run_command(write_prompts, *words, "--count", 0) == 2
    assert "--count is 0" in capsys.readouterr().err
