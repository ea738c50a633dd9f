"""Apply and revert, killed or failing at every single call that changes the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest

from t3dgs_masks.datasets import transaction
from t3dgs_masks.datasets.apply_masks import apply_masks, recover_dataset, revert_masks
from t3dgs_masks.datasets.apply_record import user_mask_of
from t3dgs_masks.datasets.dataset import Dataset
from t3dgs_masks.datasets.nerfstudio import open_nerfstudio
from t3dgs_masks.errors import UserError
from tests.datasets.scenes_to_mask import (
    NAMES,
    GivenMasks,
    times,
    tree,
    write_colmap,
    write_scene,
)

CALLS = ("_mkdir", "_rmdir", "_replace", "_unlink", "_write", "_duplicate", "_write_journal")
SHORT = NAMES[:2]
OWN = {SHORT[0]: "masks/f_0.png", SHORT[1]: "masks/f_1.png"}


class Killed(BaseException):
    """Nothing runs after it: whatever would change the disk raises it too."""


@dataclass
class Fault:
    """Lets the call number `at` of those that change the disk go wrong."""

    at: int
    error: BaseException
    for_ever: bool
    calls: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            monkeypatch.setattr(transaction, name, self._faulty(name, getattr(transaction, name)))

    @property
    def happened(self) -> bool:
        return self.calls > self.at

    def _faulty(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, *rest: Any) -> None:
            self.calls += 1
            if self.calls == self.at + 1:
                if name == "_write":  # a part of it is there
                    real(path, rest[0][:7])
                elif name == "_duplicate":
                    rest[0].write_bytes(b"half")
                raise self.error
            if self.for_ever and self.calls > self.at:
                raise self.error
            real(path, *rest)

        return call


def apply_once(scene: Path) -> None:
    apply_masks(scene, GivenMasks())


def apply_grown(scene: Path) -> None:
    apply_masks(scene, GivenMasks(), dilate=2)


def apply_fewer(scene: Path) -> None:
    rmtree(scene / "images_2")
    apply_masks(scene, GivenMasks())


def scene_without_masks(scene: Path) -> Path:
    return write_scene(scene, names=SHORT, factors=[2])


def scene_with_masks(scene: Path) -> Path:
    return write_scene(scene, names=SHORT, user_masks=OWN)


def colmap(scene: Path) -> Path:
    return write_colmap(scene, names=["a_0.jpg", "b/a_1.jpg"], user_masks=["a_0.jpg"])


def nothing(scene: Path) -> None:
    pass


CASES = [
    pytest.param(scene_without_masks, nothing, apply_once, id="apply"),
    pytest.param(scene_without_masks, apply_once, apply_grown, id="apply-again"),
    pytest.param(scene_without_masks, apply_once, apply_fewer, id="apply-fewer"),
    pytest.param(scene_without_masks, apply_once, revert_masks, id="revert"),
    pytest.param(scene_with_masks, nothing, apply_once, id="apply-combined"),
    pytest.param(scene_with_masks, apply_once, revert_masks, id="revert-combined"),
    pytest.param(colmap, nothing, apply_once, id="apply-colmap"),
    pytest.param(colmap, apply_once, revert_masks, id="revert-colmap"),
]


class Case:
    """A dataset before and after an action, and pristine."""

    def __init__(
        self,
        folder: Path,
        make: Callable[[Path], Path],
        prepare: Callable[[Path], object],
        action: Callable[[Path], object],
    ) -> None:
        self.folder, self.action = folder, action
        made = make(folder / "made")
        self.pristine = tree(made)
        self.written = times(made)
        prepare(made)
        self.before = tree(made)
        if action is apply_fewer:  # what the test itself does
            gone = [name for name in self.pristine if name.startswith("images_2")]
            self.pristine = {n: data for n, data in self.pristine.items() if n not in gone}
            self.before = {n: data for n, data in self.before.items() if n not in gone}
        done = copytree(made, folder / "done", symlinks=True)
        action(done)
        self.after = tree(done)

    def scenes(self, error: BaseException, for_ever: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
        """One fresh copy after the other, with the fault one call later each time; ends when the
        action comes through without it."""
        for at in range(1000):
            scene = self.folder / "scene"
            rmtree(scene, ignore_errors=True)
            copytree(self.folder / "made", scene)
            fault = Fault(at, error, for_ever)
            raised: BaseException | None = None
            with monkeypatch.context() as patch:
                fault.install(patch)
                try:
                    self.action(scene)
                except (UserError, Killed, OSError) as problem:
                    raised = problem
            if not fault.happened:
                assert at > 10
                return
            yield scene, raised


@pytest.mark.parametrize(("make", "prepare", "action"), CASES)
def test_an_error_leaves_all_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    prepare: Callable[[Path], object],
    action: Callable[[Path], object],
) -> None:
    case = Case(tmp_path, make, prepare, action)
    number = errno.EACCES if make is scene_with_masks else errno.ENOSPC
    for scene, raised in case.scenes(OSError(number, "no"), False, monkeypatch):
        if raised is None:  # it happened while tidying up, or there was another way
            recover_dataset(scene)
            assert tree(scene) == case.after
        else:
            assert isinstance(raised, UserError)
            assert "\n" not in str(raised)
            assert ("the disk is full" in str(raised)) == (number == errno.ENOSPC)
            assert tree(scene) == case.before


@pytest.mark.parametrize(("make", "prepare", "action"), CASES)
def test_a_kill_is_made_good(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    prepare: Callable[[Path], object],
    action: Callable[[Path], object],
) -> None:
    case = Case(tmp_path, make, prepare, action)
    for number, (scene, _) in enumerate(case.scenes(Killed(), True, monkeypatch)):
        readable(scene)
        if number % 3 == 0:
            recover_dataset(scene)
            assert tree(scene) in (case.before, case.after)
        if number % 2:
            revert_masks(scene)
            assert tree(scene) == case.pristine
        elif action is revert_masks:
            revert_masks(scene)
            assert tree(scene) == case.after
            assert times(scene) == case.written
        else:
            apply_masks(scene, GivenMasks(), dilate=2 if action is apply_grown else 0)
            assert tree(scene) == case.after


def readable(scene: Path) -> None:
    """Whatever moment it was killed at, trainers can read it, and whose mask is whose is known."""
    if not (scene / "transforms.json").exists():
        return
    dataset: Dataset = open_nerfstudio(scene)
    for frame in dataset.frames:
        assert frame.mask is None or frame.mask.is_file()
        user_mask = user_mask_of(scene, frame)
        assert user_mask is None or user_mask == scene / OWN[frame.source]


@pytest.mark.parametrize(("make", "prepare", "action"), CASES[:1])
def test_a_kill_while_a_kill_is_made_good(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    prepare: Callable[[Path], object],
    action: Callable[[Path], object],
) -> None:
    case = Case(tmp_path, make, prepare, action)
    for number, (scene, _) in enumerate(case.scenes(Killed(), True, monkeypatch)):
        for again in range(0, 60, 3):
            fault = Fault((again + number) % 40, Killed(), True)
            with monkeypatch.context() as patch:
                fault.install(patch)
                try:
                    recover_dataset(scene)
                except Killed:
                    continue
            break
        recover_dataset(scene)
        assert tree(scene) in (case.before, case.after)


KILLER = """
import os, signal, sys
from pathlib import Path
from t3dgs_masks.datasets import transaction
from t3dgs_masks.datasets.apply_masks import apply_masks
from tests.datasets.scenes_to_mask import GivenMasks
calls = 0
def mortal(real):
    def call(*arguments):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments)
    return call
for name in sys.argv[3].split(","):
    setattr(transaction, name, mortal(getattr(transaction, name)))
apply_masks(Path(sys.argv[1]), GivenMasks())
"""


@pytest.mark.parametrize("at", [3, 14, 19])
def test_a_real_kill(tmp_path: Path, at: int) -> None:
    scene = scene_without_masks(tmp_path / "scene")
    pristine = tree(scene)
    command = [sys.executable, "-c", KILLER, str(scene), str(at), ",".join(CALLS)]
    root = Path(__file__).parents[2]
    assert subprocess.run(command, cwd=root, check=False).returncode == -9
    assert tree(scene) != pristine
    apply_once(scene)
    once = tree(scene)
    assert not any(name.startswith(".t3dgs_masks/next") for name in once)
    revert_masks(scene)
    assert tree(scene) == pristine


def test_a_file_that_was_changed_after_a_kill_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_without_masks(tmp_path / "scene")
    with monkeypatch.context() as patch:
        # Killed when everything is in place, but for the journal.
        patch.setattr(transaction, "_unlink", Fault(0, Killed(), True)._faulty("", print))
        patch.setattr(transaction, "_take_back", print)
        with pytest.raises(Killed):
            apply_once(scene)
    file = scene / "transforms.json"
    assert "mask_path" in file.read_text()
    file.write_text(file.read_text() + " ")
    before = tree(scene)
    with pytest.raises(UserError, match=r"transforms\.json was changed while .* unfinished"):
        revert_masks(scene)
    assert tree(scene)["transforms.json"] == before["transforms.json"]


def test_only_one_at_a_time(tmp_path: Path) -> None:
    scene = scene_without_masks(tmp_path / "scene")
    before = tree(scene)
    with transaction.locked(scene), pytest.raises(UserError, match="another run"):
        apply_once(scene)
    assert tree(scene) == before
    apply_once(scene)


@pytest.mark.parametrize("damage", ["{", "[]", '{"changes": [{"path": "../x"}]}'])
def test_a_damaged_journal(tmp_path: Path, damage: str) -> None:
    scene = scene_without_masks(tmp_path / "scene")
    (scene / ".t3dgs_masks").mkdir()
    (scene / ".t3dgs_masks/journal.json").write_text(damage)
    before = tree(scene)
    with pytest.raises(UserError, match=r"journal\.json was damaged"):
        apply_once(scene)
    assert tree(scene) == before


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    scene = scene_with_masks(tmp_path / "scene")
    pristine, written = tree(scene), times(scene)
    apply_once(scene)
    revert_masks(scene)
    assert (tree(scene), times(scene)) == (pristine, written)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    scene = scene_without_masks(tmp_path / "scene")
    before = tree(scene)
    scene.chmod(0o555)
    try:
        with pytest.raises(UserError, match="Permission denied; check its permissions"):
            apply_once(scene)
    finally:
        scene.chmod(0o755)
    assert tree(scene) == before
