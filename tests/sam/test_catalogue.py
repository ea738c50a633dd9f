"""Names of checkpoints, where they come from, and the command that shows and fetches them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

from t3dgs_masks.errors import UserError
from t3dgs_masks.models_command import ModelsDownload, ModelsList, ModelsPath
from t3dgs_masks.sam import catalogue, download

TINY = "sam2.1-hiera-tiny"
TINY_REPO = "facebook/sam2.1-hiera-tiny"
TINY_FILE = "sam2.1_hiera_tiny.pt"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder that stands in for the hub and holds one checkpoint."""
    folder = tmp_path / "hub"
    (folder / TINY_REPO).mkdir(parents=True)
    (folder / TINY_REPO / TINY_FILE).write_bytes(b"weights")
    return folder


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub cache without any file, whatever this machine's holds."""
    monkeypatch.delenv(download.HUB_VARIABLE, raising=False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


def _forbid_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: str) -> str:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


def test_sam2_entries_agree_with_sam2_itself() -> None:
    ours = {
        entry.repo_id: entry.hub_file
        for entry in catalogue.CATALOGUE
        if entry.family == "sam2" and entry.repo_id
    }
    theirs = {repo: file_name for repo, (_, file_name) in HF_MODEL_ID_TO_FILENAMES.items()}
    assert ours == theirs


def test_names_are_unique() -> None:
    names = [entry.name for entry in catalogue.CATALOGUE]
    assert len(set(names)) == len(names) == 12


@pytest.mark.parametrize(
    "spelling", [TINY, "sam2.1_hiera_tiny", "SAM2.1-Hiera-Tiny", "facebook/sam2.1-hiera-tiny"]
)
def test_spellings_of_a_name(spelling: str) -> None:
    assert catalogue.get_entry(spelling).name == TINY


def test_sam1_names() -> None:
    assert catalogue.names("sam1") == ["vit_h", "vit_l", "vit_b"]
    assert catalogue.get_entry("vit-b").file_name == "sam_vit_b_01ec64.pth"


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'sam2.1-hiera-tiny'\?"):
        catalogue.get_entry("sam2.1-hiera-tin")
    with pytest.raises(UserError, match="models list"):
        catalogue.get_entry("yolo")


def test_stand_in_folder_is_used_instead_of_the_network(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forbid_download(monkeypatch)
    expected = hub / TINY_REPO / TINY_FILE
    assert download.fetch(catalogue.get_entry(TINY), hub) == expected
    monkeypatch.setenv(download.HUB_VARIABLE, str(hub))
    assert download.fetch(catalogue.get_entry(TINY)) == expected


def test_stand_in_folder_without_the_file(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _forbid_download(monkeypatch)
    with pytest.raises(UserError, match=r"has no facebook/sam2-hiera-large/sam2_hiera_large\.pt"):
        download.fetch(catalogue.get_entry("sam2-hiera-large"), hub)
    with pytest.raises(UserError, match="does not exist"):
        download.fetch(catalogue.get_entry(TINY), hub / "elsewhere")


def test_downloads_by_repository_and_file_name(
    empty_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []

    def download_file(*, repo_id: str, filename: str) -> str:
        asked_for.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download_file)
    assert download.fetch(catalogue.get_entry(TINY)) == tmp_path / TINY_FILE
    assert asked_for == [(TINY_REPO, TINY_FILE)]


def test_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(download.HUB_VARIABLE, raising=False)
    cached = tmp_path / TINY_FILE
    cached.write_bytes(b"weights")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(cached))
    _forbid_download(monkeypatch)
    assert download.fetch(catalogue.get_entry(TINY)) == cached


@pytest.mark.parametrize("failure", [OSError("Network is unreachable\nmore"), RuntimeError()])
def test_no_network_is_one_line_with_a_way_out(
    empty_cache: None, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: str) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError) as caught:
        download.fetch(catalogue.get_entry("vit_b"))
    message = str(caught.value)
    assert "\n" not in message
    assert "t3dgs-masks models download vit_b" in message
    assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth" in message


def test_a_download_is_held_to_its_hash(
    empty_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, link = tmp_path / "blob", tmp_path / "link.pth"
    blob.write_bytes(b"something else")
    link.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **_: str(link))
    entry = catalogue.get_entry("vit_b")
    with pytest.raises(UserError, match="not the official file"):
        download.fetch(entry)
    assert not blob.exists()
    assert not link.is_symlink()

    blob.write_bytes(b"the real one")
    link.symlink_to(blob)
    right = replace(entry, sha256=hashlib.sha256(b"the real one").hexdigest())
    assert download.fetch(right) == link


def test_list_names_every_checkpoint_and_where_it_is(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ModelsList(hub=hub).run() == 0
    printed = capsys.readouterr().out
    assert all(entry.name in printed for entry in catalogue.CATALOGUE)
    assert "Apache-2.0" in printed
    assert "not fetched" in printed


def test_path_prints_the_path_only(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ModelsPath(TINY, hub=hub).run() == 0
    assert capsys.readouterr().out == f"{hub / TINY_REPO / TINY_FILE}\n"
    with pytest.raises(UserError, match="models download vit_h"):
        ModelsPath("vit_h", hub=hub).run()


def test_download_prints_the_path(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ModelsDownload(TINY, hub=hub).run() == 0
    assert capsys.readouterr().out.strip() == str(hub / TINY_REPO / TINY_FILE)


def test_listing_loads_no_torch(hub: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from t3dgs_masks.models_command import ModelsList\n"
        "ModelsList(hub=pathlib.Path(sys.argv[1])).run()\n"
        "assert not {'torch', 'sam2', 'segment_anything'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(hub)], check=True, capture_output=True)
