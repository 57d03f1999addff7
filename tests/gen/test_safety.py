"""The safety checker: the flags of diffusers' own, without its black images; and images made anew."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import DIGITS_MODEL

from synthclone.gen import safety
from synthclone.gen.noise import retry_seed
from synthclone.gen.plan import PlannedImage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images_BHWC():
    """Some bright, some dark, some noisy, larger than the checker's input and not square."""
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (24, 5, 7, 3)).repeat(9, axis=1).repeat(9, axis=2)
    noise = generator.integers(-20, 20, base.shape)
    return (base * generator.uniform(0.1, 1, (24, 1, 1, 1)) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images_BHWC):
    """A tiny checker whose first concept is what the even images look like, and whose special-care one is image 1's."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = CLIPConfig(vision_config=vision | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    module = StableDiffusionSafetyChecker(config).eval()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with torch.no_grad():
        pixels = processor(images=list(images_BHWC), return_tensors="pt")["pixel_values"]
        embeds = torch.nn.functional.normalize(module.visual_projection(module.vision_model(pixels).pooler_output))
        module.concept_embeds.normal_()
        module.concept_embeds[0] = embeds[::2].mean(0)
        module.special_care_embeds.normal_()
        module.special_care_embeds[0] = embeds[1]
        similarity = embeds @ torch.nn.functional.normalize(module.concept_embeds[:1]).t()
        module.concept_embeds_weights.fill_(2.0)
        module.concept_embeds_weights[0] = similarity.median()
        module.special_care_embeds_weights.fill_(0.9)
    root = tmp_path_factory.mktemp("checkpoint")
    module.save_pretrained(root / "safety_checker")
    processor.save_pretrained(root / "feature_extractor")
    return root


def reference(folder, images_BHWC):
    """diffusers' own verdict, with its own loading and preprocessing."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessorPil

    module = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker").eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor")
    pixels = processor(images=list(images_BHWC), return_tensors="pt")["pixel_values"]
    images, flags = module(clip_input=pixels, images=[image.copy() for image in images_BHWC])
    return np.stack(images), flags


def test_flags_are_those_of_diffusers_and_nothing_turns_black(folder, images_BHWC):
    before = images_BHWC.copy()
    flags = safety.open_checker(folder, CPU).flags(images_BHWC)
    blackened, expected = reference(folder, images_BHWC)
    assert flags == expected and 4 < sum(flags) < 20
    assert np.array_equal(images_BHWC, before) and not blackened[expected.index(True)].any()


def test_special_care_lowers_the_line(folder, images_BHWC):
    """Some image must be flagged only because of the adjustment, or the test above says nothing of it."""
    checker = safety.open_checker(folder, CPU)
    with_care = checker.flags(images_BHWC)
    checker.module.special_care_embeds_weights.data.fill_(2.0)
    pixels = checker.processor(images=list(images_BHWC), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        embeds = checker.module.visual_projection(checker.module.vision_model(pixels).pooler_output)
        cosine_B = torch.nn.functional.cosine_similarity(embeds, checker.module.concept_embeds[:1])
    line = float(cosine_B[1]) + 0.005  # image 1 is what special care is about: it falls short by half the adjustment
    checker.module.concept_embeds_weights.data[0] = line
    assert checker.flags(images_BHWC[1:2]) == [False]
    checker.module.special_care_embeds_weights.data.fill_(0.9)
    assert checker.flags(images_BHWC[1:2]) == [True]
    assert len(with_care) == len(images_BHWC)


def test_flags_do_not_depend_on_the_batch_or_on_the_container(folder, images_BHWC):
    checker = safety.open_checker(folder, CPU)
    whole = checker.flags(images_BHWC)
    assert [flag for image in images_BHWC for flag in checker.flags(image[None])] == whole
    assert checker.flags(torch.from_numpy(images_BHWC)) == whole


def test_the_published_layout_of_weights_loads(folder, images_BHWC, tmp_path):
    """Stable Diffusion's own files nest the vision model once more than today's transformers does."""
    for name in ("safety_checker", "feature_extractor"):
        (tmp_path / name).mkdir()
        for path in (folder / name).glob("*.json"):
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "safety_checker" / "model.safetensors")
    nested = {
        re.sub(r"^vision_model\.(?!vision_model)", "vision_model.vision_model.", k): v for k, v in weights.items()
    }
    assert any(name.startswith("vision_model.vision_model.encoder") for name in nested)
    save_file(nested, tmp_path / "safety_checker" / "model.safetensors", metadata={"format": "pt"})
    flags = safety.open_checker(folder, CPU).flags(images_BHWC)
    assert safety.open_checker(tmp_path, CPU).flags(images_BHWC) == flags
    nested.pop("visual_projection.weight")
    save_file(nested, tmp_path / "safety_checker" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks the weights visual_projection\.weight"):
        safety.open_checker(tmp_path, CPU)


def test_a_checkpoint_without_a_checker(tmp_path):
    with pytest.raises(ValueError, match=r"has no safety checker .*--safety off, or --safety-checker DIR"):
        safety.open_checker(DIGITS_MODEL, CPU)
    for name in ("safety_checker/config.json", "feature_extractor/preprocessor_config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps({}))
    (tmp_path / "safety_checker" / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match="pickled ones are never loaded"):
        safety.open_checker(tmp_path, CPU)


class RedChecker:
    """Flags what is all red."""

    def flags(self, images_BHWC):
        return [bool((image[..., 0] == 255).all()) for image in images_BHWC]


def planned_image(number):
    return PlannedImage(
        index=number, label=0, class_key="k", serial=number, prompt="a k", seed=retry_seed("0" * 32, number + 1)
    )


@pytest.mark.parametrize("mode", ["flag", "regenerate"])
def test_a_review_tells_flags_and_sends_back_only_where_asked(mode):
    images = np.zeros((4, 4, 4, 3), np.uint8)
    images[1::2, ..., 0] = 255
    verdicts = safety.reviewer(RedChecker(), mode)([planned_image(i) for i in range(4)], [0, 0, 3, 3], images)
    assert [verdict.fields for verdict in verdicts] == [
        {"flagged": flag, "attempt": attempt} for flag, attempt in zip([False, True] * 2, [0, 0, 3, 3], strict=True)
    ]
    assert [verdict.again for verdict in verdicts] == [False, mode == "regenerate"] * 2


def test_what_never_passes_is_an_error_and_not_a_black_image():
    red = np.full((1, 4, 4, 3), 255, np.uint8)
    review = safety.reviewer(RedChecker(), "regenerate")
    assert review([planned_image(0)], [18], red)[0].again
    with pytest.raises(ValueError, match=r"image 0 \(class k, prompt 'a k'\) was flagged .*all of 20 attempts"):
        review([planned_image(0)], [19], red)


class OddChecker:
    """Flags an image whose pixels sum to an odd number: every other one, whatever is on it."""

    def flags(self, images_BHWC):
        return [bool(int(image.sum(dtype=np.int64)) % 2) for image in images_BHWC]


def test_flagged_images_are_made_anew_alike_in_any_batch(engines, folder, tmp_path, monkeypatch, capsys):
    from support import run_command

    from synthclone.gen import reading, shards, storage
    from synthclone.gen.generate import command as generate
    from synthclone.gen.verify import command as verify

    monkeypatch.setattr(safety, "open_checker", lambda folder, device: OddChecker())
    words = ["--engines", engines, "--classes", "digits", "--steps", 2, "--solver", "ddim", "--device", "cpu"]
    words += ["--per-class", 4, "--shard-size", 20]
    found = {}
    for name, more in {
        "off": [], "flag": ["--safety", "flag"], "again": ["--safety", "regenerate"],
        "again in other batches": ["--safety", "regenerate", "--batch", 3],
    }.items():  # fmt: skip
        more += ["--safety-checker", folder] if more else []
        assert run_command(generate, *words, *more, "--output", tmp_path / name) == 0
        target = storage.at(tmp_path / name)
        found[name] = [sample for number in (0, 1) for sample in reading.samples(target, number)]
    plain, flagged, again = ([sample.jpeg for sample in found[name]] for name in ("off", "flag", "again"))
    flags = [sample.fields["flagged"] for sample in found["flag"]]
    assert any(flags) and not all(flags) and plain == flagged
    assert [before != after for before, after in zip(plain, again, strict=True)] == flags
    assert not any(sample.fields["flagged"] for sample in found["again"])
    assert [sample.fields["attempt"] > 0 for sample in found["again"]] == flags
    assert found["again"] == found["again in other batches"]
    markers = shards.markers(storage.at(tmp_path / "flag"), storage.at(tmp_path / "flag").sizes())
    assert sum(marker["flagged"] for marker in markers.values()) == sum(flags)
    assert "made again from another seed" in (tmp_path / "again" / "README.md").read_text()
    bar = capsys.readouterr().err
    assert "40/40" in bar and "41/40" not in bar  # what is made anew is not counted again

    moved = shutil.copytree(folder, tmp_path / "moved")
    whole = (tmp_path / "again" / "000001.tar").read_bytes()
    (tmp_path / "again" / "000001.tar").write_bytes(b"")
    assert run_command(verify, tmp_path / "again", "--repair", "--engines", engines, "--safety-checker", moved) == 0
    assert (tmp_path / "again" / "000001.tar").read_bytes() == whole
    (moved / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    words += ["--safety", "regenerate", "--safety-checker", moved, "--output", tmp_path / "again"]
    assert run_command(generate, *words) == 2
    assert "its safety_checker.sha256 is" in capsys.readouterr().err


def test_retry_seeds_are_keys_of_their_own():
    seed = "0123456789abcdef" * 2
    seeds = [retry_seed(seed, attempt) for attempt in range(5)]
    assert seeds[0] == seed and len(set(seeds)) == 5 and all(re.fullmatch(r"[0-9a-f]{32}", key) for key in seeds)
