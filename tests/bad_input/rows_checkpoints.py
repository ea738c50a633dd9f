"""Checkpoints and configurations that are broken, foreign or hostile."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from t3dgs_masks.sam.catalogue import WEIGHTS_DIR
from tests.bad_input.inputs import REFINE, cut, frames
from tests.bad_input.malicious import BAIT, Bait
from tests.bad_input.table import Table

CHECKPOINTS = Table()
row, accepted = CHECKPOINTS.row, CHECKPOINTS.accepted

TINY = WEIGHTS_DIR / "tiny_synthetic.pt"
CALLS_CODE = f"model:\n  image_size: 256\n  trunk:\n    _target_: os.mkdir\n    path: {BAIT}\n"

GIVEN = (*REFINE, "--sam2-checkpoint", "net.pt")


def checkpoint(name: str, says: str, *more: object) -> Callable[..., object]:
    """A row in which ``net.pt`` is what the function makes it."""

    def add(make: Callable[[Path], object]) -> object:
        @row(name, says)
        def _(work: Path) -> Sequence[object]:
            frames(work)
            make(work / "net.pt")
            return (*GIVEN, *more)

        return make

    return add


def content() -> dict[str, Any]:
    import torch

    return torch.load(TINY, map_location="cpu", weights_only=True)


def store(path: Path, what: object) -> None:
    import torch

    torch.save(what, path)


checkpoint("no such checkpoint", r"There is no file|'net\.pt' is neither a file nor the name")(
    lambda p: None
)
checkpoint("a checkpoint of zero bytes", r"net\.pt is empty \(0 bytes\)")(
    lambda p: p.write_bytes(b"")
)
checkpoint("a checkpoint that is text", r"net\.pt is not a PyTorch checkpoint")(
    lambda p: p.write_text("weights")
)
checkpoint("a web page that is called .pt", r"net\.pt is a web page saved under this name")(
    lambda p: p.write_text("<!DOCTYPE html><html></html>")
)
checkpoint("a folder that is called .pt", r"net\.pt is a folder, not a checkpoint")(
    lambda p: p.mkdir()
)
checkpoint(
    "random bytes in a checkpoint", r"net\.pt is (truncated or damaged|not a PyTorch)|never run"
)(lambda p: p.write_bytes(b"\x80" + bytes(range(256)) * 20))


@checkpoint("a checkpoint cut short", r"net\.pt is truncated or damaged")
def _(path: Path) -> None:
    cut(Path(shutil.copy(TINY, path)), 0.7)


@checkpoint("a checkpoint whose middle is overwritten", r"net\.pt ")
def _(path: Path) -> None:
    data = bytearray(TINY.read_bytes())
    data[300:2300] = bytes(2000)
    path.write_bytes(data)


@checkpoint(
    "a checkpoint that is a bare pickle of code", r"code in checkpoints is never run|damaged"
)
def _(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Bait()}))


@checkpoint("a checkpoint with code beside its tensors", r"code in checkpoints is never run")
def _(path: Path) -> None:
    store(path, {**content(), "extra": Bait()})


@checkpoint("a checkpoint in the old format with code", r"code in checkpoints is never run")
def _(path: Path) -> None:
    import torch

    torch.save({"model": Bait()}, path, _use_new_zipfile_serialization=False)


@checkpoint("a zip file with a pickle of code", r"code in checkpoints is never run|damaged")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps(Bait()))
        archive.writestr("net/version", "3\n")


@checkpoint("a TorchScript archive", r"net\.pt ")
def _(path: Path) -> None:
    import torch

    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    torch.jit.script(Plain()).save(str(path))


@checkpoint("the weights of another network", r"some other network, not of SAM2 \(first tensor")
def _(path: Path) -> None:
    import torch

    store(path, {"model": torch.nn.Linear(3, 3).state_dict()})


@checkpoint("a checkpoint without tensors", r"holds no tensors by name")
def _(path: Path) -> None:
    store(path, {"model": {"epoch": 3}})


@checkpoint("a list in place of a checkpoint", r"holds no tensors by name")
def _(path: Path) -> None:
    store(path, [1, 2, 3])


@checkpoint("half of the tensors of a SAM2", r"does not fit .*tensors \d+ missing")
def _(path: Path) -> None:
    given = content()
    names = sorted(given["model"])
    keep = set(names[: len(names) // 2]) | {"image_encoder.trunk.patch_embed.proj.weight"}
    store(path, {**given, "model": {n: t for n, t in given["model"].items() if n in keep}})


@checkpoint("a tensor of another shape", r"does not fit .*1 of another shape")
def _(path: Path) -> None:
    import torch

    given = content()
    name = max(given["model"])
    given["model"][name] = torch.zeros(7, 7, 7)
    store(path, given)


@checkpoint(
    "a checkpoint whose own configuration calls code", r"asks to call 'os\.mkdir', which is no"
)
def _(path: Path) -> None:
    store(path, {**content(), "config": CALLS_CODE})


@checkpoint(
    "a checkpoint with a configuration of another network",
    r"net\.pt.*must be a multiple of 32|image size of a SAM2",
)
def _(path: Path) -> None:
    store(path, {**content(), "config": "model: {layers: 3}"})


@checkpoint("a checkpoint with a configuration cut short", r"is not a SAM2 configuration")
def _(path: Path) -> None:
    given = content()
    store(path, {**given, "config": "model: {a: [1, 2"})


@checkpoint(
    "an official configuration that does not fit",
    r"does not fit sam2\.1_hiera_t\.yaml",
    "--sam2-config",
    "sam2.1_hiera_t.yaml",
)
def _(path: Path) -> None:
    shutil.copy(TINY, path)


@checkpoint(
    "a configuration that does not exist",
    r"--sam2-config gone\.yaml is neither a file nor",
    "--sam2-config",
    "gone.yaml",
)
def _(path: Path) -> None:
    shutil.copy(TINY, path)


@checkpoint(
    "a configuration file that calls code",
    r"asks to call 'os\.mkdir'|is not a SAM2 config",
    "--sam2-config",
    "evil.yaml",
)
def _(path: Path) -> None:
    shutil.copy(TINY, path)
    text = f"model: !!python/object/apply:os.mkdir [{BAIT}]\n"
    path.with_name("evil.yaml").write_text(text)


@checkpoint(
    "a configuration file that is no text",
    r"evil\.yaml cannot be read as text",
    "--sam2-config",
    "evil.yaml",
)
def _(path: Path) -> None:
    shutil.copy(TINY, path)
    path.with_name("evil.yaml").write_bytes(b"\xff\xfe\x00\x80")


@row("a SAM2 where a SAM1 belongs", r"is a SAM2 checkpoint where SAM1 is expected")
def _(work: Path) -> Sequence[object]:
    frames(work)
    shutil.copy(TINY, work / "net.pt")
    return (*REFINE, "--sam-checkpoint", "net.pt")


@row(
    "the name of a SAM1 where a SAM2 belongs",
    r"'vit_b' is a SAM1 checkpoint where SAM2 is expected",
)
def _(work: Path) -> Sequence[object]:
    frames(work)
    return (*REFINE, "--sam2-checkpoint", "vit_b")


@row("a checkpoint that is a link to itself", r"'net\.pt' is neither a file nor")
def _(work: Path) -> Sequence[object]:
    frames(work)
    (work / "net.pt").symlink_to("net.pt")
    return GIVEN


@row("a checkpoint of NaN", r"net\.pt holds NaN or infinite numbers \(")
def _(work: Path) -> Sequence[object]:
    frames(work)
    given = content()
    store(
        work / "net.pt",
        {
            **given,
            "model": {
                n: t * float("nan") if t.is_floating_point() else t
                for n, t in given["model"].items()
            },
        },
    )
    return GIVEN


@row(
    "a checkpoint that has to be fetched, without it in the hub",
    r"has no facebook/sam2\.1-hiera-large",
)
def _(work: Path) -> Sequence[object]:
    (work / "hub").mkdir()
    return ("models", "download", "sam2.1-hiera-large", "--hub", "hub")


@row("a name that no checkpoint has", r"There is no checkpoint called 'sam3-huge'")
def _(work: Path) -> Sequence[object]:
    return ("models", "download", "sam3-huge")


@row("a checkpoint that has not been fetched", r"'vit_b' is not on this machine yet")
def _(work: Path) -> Sequence[object]:
    (work / "hub").mkdir()
    return ("models", "path", "vit_b", "--hub", "hub")
