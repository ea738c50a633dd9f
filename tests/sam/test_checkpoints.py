"""Checkpoints of the official formats load; every other file is told apart, in one line."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from segment_anything import sam_model_registry

from t3dgs_masks.errors import UserError
from t3dgs_masks.sam import catalogue, download, model_configs
from t3dgs_masks.sam.checkpoints import (
    RecommendedThresholds,
    load_sam1,
    load_sam2,
    resolve_checkpoint,
)
from t3dgs_masks.sam.sam1_architecture import recognise_sam1
from tests.sam.tiny_sam1 import TINY_SAM1, write_tiny_sam1
from tests.sam.tiny_sam2_files import write_random_sam2

torch.set_num_threads(1)

OFFICIAL = list(model_configs.official_config_names())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def sam2_1_tiny(folder: Path) -> Path:
    """SAM 2.1 tiny under a name that says nothing."""
    return write_random_sam2(folder / "a.pt", "sam2.1_hiera_t")


@pytest.fixture(scope="module")
def tiny_sam1(folder: Path) -> Path:
    return write_tiny_sam1(folder / "tiny_sam1.pth")


@pytest.fixture(scope="module")
def small_config(folder: Path) -> Path:
    """A configuration of none of the official sizes, quick to build."""
    text = model_configs.find_config("sam2.1_hiera_t.yaml").text
    config = OmegaConf.create(text)
    OmegaConf.update(config, "model.image_encoder.trunk.embed_dim", 16)
    OmegaConf.update(config, "model.image_encoder.neck.backbone_channel_list", [128, 64, 32, 16])
    OmegaConf.update(config, "model.memory_attention.num_layers", 1)
    OmegaConf.update(config, "model.memory_attention.layer.dim_feedforward", 64)
    OmegaConf.update(config, "model.image_size", 64)
    path = folder / "small.yaml"
    path.write_text("# @package _global_\n" + OmegaConf.to_yaml(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small_sam2(folder: Path, small_config: Path) -> Path:
    """A small SAM2 file that carries its configuration."""
    return write_random_sam2(folder / "small.pt", str(small_config), embed_config=True)


def message_of(load: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def with_extras(source: Path, target: Path, **extras: object) -> Path:
    content = torch.load(source, weights_only=True)
    torch.save({**content, **extras}, target)
    return target


# ---- SAM2 that loads


def test_the_network_is_the_official_predictor(sam2_1_tiny: Path) -> None:
    loaded = load_sam2(sam2_1_tiny, device="cpu")
    official = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml", str(sam2_1_tiny), device="cpu"
    )
    assert type(loaded.model) is SAM2VideoPredictor
    assert not loaded.model.training
    ours, theirs = loaded.model.state_dict(), official.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert settings_of(loaded.model) == {**settings_of(official), "fill_hole_area": 0}
    decoder, official_decoder = loaded.model.sam_mask_decoder, official.sam_mask_decoder
    assert settings_of(decoder) == settings_of(official_decoder)
    assert loaded.architecture == "sam2.1_hiera_t.yaml"
    assert loaded.name == "a.pt"
    assert loaded.recommended is None
    assert loaded.notice is None
    assert loaded.precision.name == "float32"
    assert loaded.checkpoint_sha256 == download.file_sha256(sam2_1_tiny)


def settings_of(module: torch.nn.Module) -> dict[str, object]:
    """Plain attributes of a module: numbers, flags, names, and dicts of them."""
    plain = (bool, int, float, str, dict)
    return {
        key: dict(value) if isinstance(value, dict) else value
        for key, value in vars(module).items()
        if isinstance(value, plain) and not key.startswith("_")
    }


@pytest.mark.parametrize(
    "config",
    ["sam2.1_hiera_t.yaml", "sam2.1_hiera_t", "configs/sam2.1/sam2.1_hiera_t.yaml"],
)
def test_config_by_name(config: str) -> None:
    assert model_configs.find_config(config).label == "sam2.1_hiera_t.yaml"


def test_config_by_path(small_sam2: Path, small_config: Path) -> None:
    loaded = load_sam2(small_sam2, str(small_config), "cpu")
    assert loaded.architecture == str(small_config)


def test_short_names_without_version_mean_sam_2_0() -> None:
    ours = model_configs.find_config("sam2_hiera_l.yaml")
    assert "no_obj_embed_spatial" not in ours.text
    assert "embed_dim: 144" in ours.text


def test_embedded_config_comes_before_the_shapes(sam2_1_tiny: Path, tmp_path: Path) -> None:
    config = OmegaConf.create(model_configs.find_config("sam2.1_hiera_t").text)
    OmegaConf.update(config, "model.image_size", 128)
    path = with_extras(sam2_1_tiny, tmp_path / "b.pt", config=OmegaConf.to_yaml(config))
    assert load_sam2(path, device="cpu").model.image_size == 128
    assert load_sam2(path, "sam2.1_hiera_t.yaml", "cpu").model.image_size == 1024


def test_the_packaged_checkpoint() -> None:
    loaded = load_sam2("tiny-synthetic", device="cpu")
    assert loaded.name == "tiny-synthetic"
    assert loaded.recommended is not None
    assert loaded.notice is not None


def test_image_size_can_be_set(small_sam2: Path) -> None:
    assert load_sam2(small_sam2, device="cpu").model.image_size == 64
    assert load_sam2(small_sam2, device="cpu", image_size=96).model.image_size == 96
    message = message_of(lambda: load_sam2(small_sam2, device="cpu", image_size=100))
    assert "multiple of 32" in message


def test_half_precision_files_load_as_float32(small_sam2: Path, tmp_path: Path) -> None:
    content = torch.load(small_sam2, weights_only=True)
    halves = {key: value.half() for key, value in content["model"].items()}
    path = tmp_path / "half.pt"
    torch.save({**content, "model": halves}, path)
    model = load_sam2(path, device="cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_a_file_says_about_itself(small_sam2: Path, tmp_path: Path) -> None:
    path = with_extras(
        small_sam2,
        tmp_path / "c.pt",
        recommended={"pred_iou_thresh": 0.5, "stability_score_thresh": 0.7},
        notice="For demonstration\n\x1b[2J only.",
    )
    loaded = load_sam2(path, device="cpu")
    assert loaded.recommended == RecommendedThresholds(0.5, 0.7)
    assert loaded.notice == "For demonstration [2J only."


@pytest.mark.parametrize(
    "recommended", [{}, {"pred_iou_thresh": 7, "stability_score_thresh": 0.5}, [0.5, 0.5], "0.5"]
)
def test_senseless_recommendations_are_ignored(
    small_sam2: Path, tmp_path: Path, recommended: object
) -> None:
    path = with_extras(small_sam2, tmp_path / "d.pt", recommended=recommended, notice=3)
    loaded = load_sam2(path, device="cpu")
    assert loaded.recommended is None
    assert loaded.notice is None


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sizes_are_told_by_their_shapes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Hiera reads the numbers of a linspace while it is built, which have no values on "meta".
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    section = model_configs.parse_model_section(model_configs.find_config(name))
    with torch.device("meta"):
        model = model_configs.build_predictor(section, name)
    assert model_configs.fitting_config_name(model.state_dict()) == name


def test_by_name_from_a_stand_in_hub(small_sam2: Path, tmp_path: Path) -> None:
    entry = catalogue.get_entry("sam2.1-hiera-tiny")
    target = tmp_path / "facebook" / "sam2.1-hiera-tiny" / entry.file_name
    target.parent.mkdir(parents=True)
    shutil.copy(small_sam2, target)
    assert resolve_checkpoint("sam2.1-hiera-tiny", "sam2", tmp_path) == target
    assert load_sam2("sam2.1-hiera-tiny", device="cpu", hub=tmp_path).name == entry.name


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vit_b").write_bytes(b"")
    assert resolve_checkpoint("vit_b", "sam1") == Path("vit_b")


# ---- SAM2 with the wrong configuration


def test_a_sam_2_0_config_on_a_2_1_file_names_the_fitting_one(sam2_1_tiny: Path) -> None:
    message = message_of(lambda: load_sam2(sam2_1_tiny, "sam2_hiera_t.yaml", "cpu"))
    assert "does not fit sam2_hiera_t.yaml" in message
    assert "sam2.1_hiera_t.yaml fits it" in message


def test_another_size_names_the_fitting_one(sam2_1_tiny: Path) -> None:
    message = message_of(lambda: load_sam2(sam2_1_tiny, "sam2.1_hiera_s.yaml", "cpu"))
    assert "sam2.1_hiera_t.yaml fits it" in message


def test_unknown_size_without_config(small_sam2: Path, tmp_path: Path) -> None:
    content = torch.load(small_sam2, weights_only=True)
    path = tmp_path / "bare.pt"
    torch.save({"model": content["model"]}, path)
    assert "--sam2-config" in message_of(lambda: load_sam2(path, device="cpu"))
    message = message_of(lambda: load_sam2(path, "sam2.1_hiera_t.yaml", "cpu"))
    assert "no official configuration does" in message


def test_tensors_missing(sam2_1_tiny: Path, tmp_path: Path) -> None:
    tensors = torch.load(sam2_1_tiny, weights_only=True)["model"]
    del tensors["maskmem_tpos_enc"]
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": tensors}, path)
    message = message_of(lambda: load_sam2(path, device="cpu"))
    assert "1 missing (such as maskmem_tpos_enc)" in message
    assert "incomplete or altered" in message


def test_unknown_config_name(small_sam2: Path) -> None:
    message = message_of(lambda: load_sam2(small_sam2, "sam2_hiera_xl.yaml", "cpu"))
    assert "neither a file nor an official configuration" in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: [", "is not a SAM2 configuration"),
        ("just text", "no 'model' section"),
        ("other: 1", "no 'model' section"),
        ("model:\n  a: ${nowhere}", "is not a SAM2 configuration"),
        ("model:\n  image_size: 33", "multiple of 32"),
        ("model:\n  image_size: 64\n  nonsense: 1", "cannot be built"),
        ("#" * 70000, "too long"),
    ],
)
def test_configs_that_are_none(small_sam2: Path, tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    assert problem in message_of(lambda: load_sam2(small_sam2, str(path), "cpu"))


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "sam2.build_sam.os.system", "sam2.build_sam.build_sam2", "x", 3],
)
def test_a_config_calls_only_sam2_classes(
    small_sam2: Path, tmp_path: Path, target: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = torch.load(small_sam2, weights_only=True)
    config = OmegaConf.create(content["config"])
    OmegaConf.update(config, "model.image_encoder.extra", [{"_target_": target}], force_add=True)
    config.model.image_encoder.extra[0]["_args_"] = ["touch executed"]
    path = with_extras(small_sam2, Path("evil.pt"), config=OmegaConf.to_yaml(config))
    assert "is no part of SAM2" in message_of(lambda: load_sam2(path, device="cpu"))
    assert not Path("executed").exists()


def test_interpolation_cannot_smuggle_a_target(small_sam2: Path, tmp_path: Path) -> None:
    content = torch.load(small_sam2, weights_only=True)
    config = OmegaConf.create(content["config"])
    OmegaConf.update(config, "model.memory_encoder._target_", "${name}")
    OmegaConf.update(config, "name", "os.system", force_add=True)
    path = with_extras(small_sam2, tmp_path / "evil.pt", config=OmegaConf.to_yaml(config))
    assert "'os.system'" in message_of(lambda: load_sam2(path, device="cpu"))


# ---- SAM1


def test_tiny_sam1_loads(tiny_sam1: Path) -> None:
    loaded = load_sam1(tiny_sam1, "cpu")
    tensors = torch.load(tiny_sam1, weights_only=True)
    assert recognise_sam1(tensors) == TINY_SAM1
    state = loaded.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in tensors.items())
    assert not loaded.model.training
    assert loaded.architecture == "custom"
    image = torch.from_numpy(np.zeros((3, 128, 128), np.float32))
    with torch.inference_mode():
        embedding = loaded.model.image_encoder(loaded.model.preprocess(image)[None])
    assert embedding.shape == (1, 32, 8, 8)


def test_all_blocks_global(tmp_path: Path) -> None:
    architecture = replace(TINY_SAM1, window_size=0, global_attn_indexes=(0, 1), image_size=64)
    path = write_tiny_sam1(tmp_path / "g.pth", architecture=architecture)
    assert recognise_sam1(torch.load(path, weights_only=True)) == architecture
    load_sam1(path, "cpu")


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_official_sam1_is_recognised(name: str) -> None:
    with torch.device("meta"):
        official = sam_model_registry[name]()
    found = recognise_sam1(official.state_dict())
    blocks: list[Any] = list(official.image_encoder.blocks)
    windows = [block.window_size for block in blocks]
    assert found.name == name
    assert found.image_size == 1024
    assert found.num_heads == blocks[0].attn.num_heads
    assert found.global_attn_indexes == tuple(i for i, size in enumerate(windows) if size == 0)
    assert found.window_size == 14


def test_altered_sam1(tiny_sam1: Path, tmp_path: Path) -> None:
    tensors = torch.load(tiny_sam1, weights_only=True)
    for key, problem in (
        ("prompt_encoder.no_mask_embed.weight", "no_mask_embed"),
        ("mask_decoder.iou_token.weight", "1 missing"),
    ):
        path = tmp_path / "altered.pth"
        torch.save({name: value for name, value in tensors.items() if name != key}, path)
        message = message_of(lambda path=path: load_sam1(path, "cpu"))
        assert problem in message
        assert "models download vit_h" in message


def test_tensors_that_cannot_be_copied(tiny_sam1: Path, tmp_path: Path) -> None:
    tensors = torch.load(tiny_sam1, weights_only=True)
    tensors["image_encoder.pos_embed"] = torch.empty(1, 8, 8, 32, device="meta")
    path = tmp_path / "meta.pth"
    torch.save(tensors, path)
    assert "cannot be used" in message_of(lambda: load_sam1(path, "cpu"))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_numbers_that_are_none(small_sam2: Path, tmp_path: Path, number: float, place: int) -> None:
    content = torch.load(small_sam2, weights_only=True)
    content["model"]["memory_encoder.out_proj.weight"].view(-1)[place] = number
    torch.save(content, tmp_path / "broken.pt")
    message = message_of(lambda: load_sam2(tmp_path / "broken.pt", device="cpu"))
    assert "holds NaN or infinite numbers (memory_encoder.out_proj.weight)" in message


# ---- Files that are something else


class _Malicious:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


def _write_zip_without_data(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _write_safetensors(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "html": (lambda p: p.write_text("\n<!DOCTYPE html><p>404"), "is a web page"),
    "lfs": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git-LFS pointer",
    ),
    "safetensors": (_write_safetensors, "is a safetensors file"),
    "text": (lambda p: p.write_text("hello"), "is not a PyTorch checkpoint"),
    "zip": (_write_zip_without_data, "is a zip file, but"),
    "pickled code": (lambda p: p.write_bytes(pickle.dumps(_Malicious())), "code in checkpoints"),
    "saved code": (lambda p: torch.save({"model": _Malicious()}, p), "code in checkpoints"),
    "old format": (
        lambda p: torch.save({"a": torch.ones(1)}, p, _use_new_zipfile_serialization=False),
        "some other network",
    ),
    "other network": (lambda p: torch.save({"fc.weight": torch.ones(1)}, p), "'fc.weight'"),
    "list": (lambda p: torch.save([torch.ones(1)], p), "holds no tensors by name"),
    "number": (lambda p: torch.save({"model": 3}, p), "holds no tensors by name"),
    "transformers": (
        lambda p: torch.save({"vision_encoder.patch_embed.projection.weight": torch.ones(1)}, p),
        "format of transformers",
    ),
    "folder": (lambda p: p.mkdir(), "is a folder"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("family", ["sam2", "sam1"])
def test_bad_files(kind: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    write, problem = BAD_FILES[kind]
    write(path)
    load = load_sam2 if family == "sam2" else load_sam1
    message = message_of(lambda: load(path, device="cpu"))
    assert problem in message
    assert str(path) in message
    if kind != "folder":
        assert "`t3dgs-masks models download " in message
    assert not Path("executed").exists()


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_truncated_files(tiny_sam1: Path, tmp_path: Path, share: float) -> None:
    whole = tiny_sam1.read_bytes()
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(whole[: int(len(whole) * share)])
    message = message_of(lambda: load_sam1(path, "cpu"))
    assert "is truncated or damaged" in message
    assert "models download vit_b" in message


def test_the_wrong_kind_says_where_it_goes(small_sam2: Path, tiny_sam1: Path) -> None:
    assert "--sam2-checkpoint" in message_of(lambda: load_sam1(small_sam2, "cpu"))
    assert "--sam-checkpoint" in message_of(lambda: load_sam2(tiny_sam1, device="cpu"))
    assert "vit_h, vit_l, vit_b" in message_of(lambda: resolve_checkpoint("tiny-synthetic", "sam1"))


def test_missing_files(tmp_path: Path) -> None:
    message = message_of(lambda: resolve_checkpoint(tmp_path / "sam2.1_hiera_large.pt"))
    assert "models download sam2.1-hiera-large" in message
    assert "'sam2.1-hiera-tiny' is one" in message_of(
        lambda: resolve_checkpoint("sam2.1-hiera-tin")
    )
    assert "models list" in message_of(lambda: resolve_checkpoint(tmp_path / "mine.pt"))
