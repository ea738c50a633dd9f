"""Settings of a refine. The text under each field is the help of its command line flag.

Flags keep the reference program's names (`--memory-size`, `--lambda-ref`); the fields have the
field's own (`max_conditioning_frames`, `min_proposal_coverage`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class RefineConfig:
    """Settings of the algorithm (paper section "TMR", arXiv 2412.00155)."""

    max_conditioning_frames: Annotated[int, tyro.conf.arg(name="memory-size")] = 10
    """How many already segmented frames the tracker is conditioned on when it (re)starts."""
    min_proposal_coverage: Annotated[float, tyro.conf.arg(name="lambda-ref")] = 0.7
    """A proposal is taken if more than this share of it lies inside the coarse mask (0 to 1)."""
    min_scoring_coverage: Annotated[float, tyro.conf.arg(name="lambda-val")] = 0.7
    """A frame counts towards an object's transience score if more than this share of the object
    lies inside the coarse mask there (0 to 1)."""
    merge_iou: Annotated[float, tyro.conf.arg(name="lambda-merge")] = 0.9
    """Two objects whose masks overlap with more than this IoU on a frame are one (0 to 1)."""
    filter_threshold: float = 0.08
    """An object is kept if its transience score is above this."""
    start_points_per_side: int = 16
    """Promptless: points per side of the grid on the first frame."""
    prompt_points_per_side: int = 8
    """Promptless: points per side of the grid that looks for new objects on later frames."""
    num_iterations: int | None = None
    """Only process frames 0 to this index (included). Default: all of them."""
    fill_hole_area: int = 0
    """Fill holes of up to this many pixels in every tracked mask. 0 leaves masks as they are."""
    final_pass: bool = True
    """Look at every frame once more from its neighbours on both sides. --no-final-pass leaves that
    out: a third less time for slightly other masks (see the README)."""
    seed: int = 0
    """Seed of the random point prompts."""
    guard: Literal["auto", "off"] = "auto"
    """auto: with coarse masks, tracked masks are believed on a frame as far as its coarse mask and
    residual support them, and where objects were missed the coarse mask stays; every decision is in
    masklets.json or report.json. off: believe what is tracked, as the reference program does."""
    ordered: Literal["auto", "yes", "no"] = "auto"
    """Whether the frames are a video. no: a set of photos, where an object has to be supported by
    each frame on its own. auto looks at the frames and says what it decided. For --guard auto."""


@dataclass(frozen=True)
class ProposalConfig:
    """Settings of the automatic mask generator; names and meaning are SAM's own."""

    pred_iou_thresh: float = 0.88
    """Drop proposals whose predicted IoU is not above this (0 to 1)."""
    stability_score_thresh: float = 0.95
    """Drop proposals whose stability score is below this (0 to 1)."""
    box_nms_thresh: float = 0.7
    """Of proposals whose boxes overlap with more than this IoU only the best is kept (0 to 1)."""
    points_per_batch: int = 64
    """Point prompts per pass through the mask decoder; lower it when memory is short."""
    min_mask_region_area: int = 0
    """Remove islands and holes of fewer pixels than this from proposals. 0: leave them."""


@dataclass(frozen=True)
class RefineSettings:
    """Everything that one refine from files to files is told."""

    video_path: Path
    """Frames: a folder of images (any names, subfolders too), a video file, a nerfstudio dataset
    or COLMAP project (its training frames), or a folder made by `prepare`."""
    result_dir: Path
    """Where results go: binary_masks/, masklets.json, report.json, config.json, overlay.mp4,
    report.html."""
    prompt_dir: Path | None = None
    """Folder with masks/ (coarse masks) and, optionally, diffs/ (residuals), named like the
    frames. Without it the run is promptless."""
    prompt_polarity: Literal["auto", "white-transient", "white-static"] = "auto"
    """What white means in the coarse masks. auto decides by area and residuals, says so, and
    stops if it cannot tell."""

    sam2_checkpoint: str = "sam2.1-hiera-large"
    """Path, or a name of `t3dgs-masks models list` (fetched once)."""
    sam2_config: str | None = None
    """SAM2 configuration: a file, or a name such as sam2_hiera_l.yaml. Default: recognised from
    the checkpoint."""
    sam_checkpoint: str | None = None
    """SAM1 checkpoint for the proposals: path, or vit_h, vit_l, vit_b. Without it SAM2 proposes."""
    proposer: Literal["auto", "sam1", "sam2"] = "auto"
    """Who proposes objects. auto: sam1 if --sam-checkpoint is given, else sam2, which costs no
    further image encoding."""
    tracker: Literal["sam2", "official"] = "sam2"
    """official runs the stock SAM2 video predictor instead of ours: same masks, many times
    slower; for comparison."""

    pred_iou_thresh: float | None = None
    """Drop proposals whose predicted IoU is not above this. Default: 0.88, or what the
    checkpoint recommends."""
    stability_score_thresh: float | None = None
    """Drop proposals whose stability score is below this. Default: 0.95, or what the checkpoint
    recommends."""
    box_nms_thresh: float = 0.7
    """Of proposals whose boxes overlap with more than this IoU only the best is kept."""
    points_per_batch: int = 64
    """Point prompts per pass through the mask decoder; lower it when memory is short."""
    min_mask_region_area: int = 0
    """Remove islands and holes of fewer pixels than this from proposals."""

    algorithm: Annotated[RefineConfig, tyro.conf.arg(name="")] = field(default_factory=RefineConfig)

    every: int = 1
    """Take every so many-th frame of the source."""
    start: int | None = None
    """First source frame to take (index from 0)."""
    end: int | None = None
    """Source frame to stop before."""
    include: tuple[str, ...] = ()
    """Only take frames whose path or name matches one of these patterns, such as '*clutter*'.
    --every, --start and --end count the frames that are left."""
    exclude: tuple[str, ...] = ()
    """Leave out frames whose path or name matches one of these patterns."""
    resolution: int | None = None
    """Shorter side, in pixels, that frames are reduced to for processing. Masks are written at
    source size all the same."""
    fps: float | None = None
    """Frame rate of overlay.mp4. Default: the video's own, or 10."""
    overlay: bool = True
    """Write overlay.mp4."""
    html_report: bool = True
    """Write report.html."""

    device: str = "auto"
    """auto, cuda, cuda:<number>, mps or cpu."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on CUDA devices that have it, float32 elsewhere."""
    compile: bool = False
    """Compile the image encoder first (torch.compile): takes a minute or more, and pays on long
    sequences. Where that fails, the run says so and goes on without."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    feature_cache_gb: float | None = None
    """Host memory for image features, in GB, so that no frame is encoded twice. Default: a
    quarter of the machine's."""
    resume: bool = True
    """Keep a finished result of the same settings and inputs, and go on where an interrupted run
    of them stopped. --no-resume begins at the first frame."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class PrepareSettings:
    """Everything that `prepare` is told."""

    data: Path
    """Frames: a nerfstudio dataset (folder or JSON file), a COLMAP project, a folder of images,
    or a video file."""
    output_dir: Path
    """Where to: images/ and manifest.json. Give it, or its images/, to `refine --video-path`."""
    split: Literal["train", "all"] = "train"
    """train leaves out the evaluation frames, if the dataset says which they are."""
    include: tuple[str, ...] = ()
    """Only take frames whose path or name matches one of these patterns, such as '*clutter*'.
    --every, --start and --end count the frames that are left."""
    exclude: tuple[str, ...] = ()
    """Leave out frames whose path or name matches one of these patterns."""
    every: int = 1
    """Take every so many-th frame of the source."""
    start: int | None = None
    """First source frame to take (index from 0)."""
    end: int | None = None
    """Source frame to stop before."""
    resolution: int | None = None
    """Shorter side, in pixels, that frames are reduced to. Default: as they are."""
    format: Literal["png", "jpg"] | None = None
    """Format of the frames. Default: files that need no change are copied as they are, and all
    else is PNG. JPEG loses detail."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class CoarseMaskConfig:
    """Which residuals make a coarse mask."""

    outlier_sigmas: float = 4.0
    """A residual counts this many (robust) standard deviations above the median of the views."""
    residual_floor: float = 0.08
    """Residuals (mean over colour channels, 0 to 1) up to this never count."""
    smoothing: float = 0.02
    """Residuals are averaged over a square of this share of the image's shorter side."""
    min_area: float = 0.001
    """Spots of less than this share of the image are dropped."""


@dataclass(frozen=True)
class PromptsSettings:
    """Everything that `prompts` is told."""

    load_config: Path
    """The config.yml of a trained splatfacto or t3dgs-splatfacto run."""
    output_dir: Path
    """Where images/, masks/ (coarse masks), diffs/ (residuals) and manifest.json go."""
    data: Path | None = None
    """The dataset, if it is no longer where the run had it."""
    coarse: Annotated[CoarseMaskConfig, tyro.conf.arg(name="")] = field(
        default_factory=CoarseMaskConfig
    )
    device: str = "auto"
    """auto, cuda, cuda:<number> or cpu."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class DemoSettings:
    """Everything that the demo is told."""

    output_dir: Path = Path("demo_output")
    """Where the capture, the result and the contact sheet go."""
    seed: int = 0
    """Which capture: room, walkers and prompt errors follow from it."""
    num_frames: int = 40
    """Length of the capture."""
    num_walkers: int = 3
    """People who walk through it."""
    look: Literal["calm", "busy"] = "calm"
    """calm: a pale room, people in one strong colour each. busy: everything in all colours, which
    is more than the packaged small network can tell apart."""
    sam2_checkpoint: str = "tiny-synthetic"
    """Path, or a name of `t3dgs-masks models list`."""
    tracker: Literal["sam2", "official"] = "sam2"
    """official: the stock SAM2 video predictor, for comparison."""
    device: str = "auto"
    """auto, cuda, cuda:<number>, mps or cpu."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    resume: bool = True
    """Keep a finished result of the same capture and settings."""
    train: bool = False
    """Train splats too (needs nerfstudio; minutes on a CPU): without masks, with coarse, refined
    and true masks, and in one go with a refine midway; compare them on clean views."""
    train_steps: int = 600
    """Steps of each training."""
    train_scale: float = 0.5
    """Scale of the capture's images in training."""
    json: Path | None = None
    """Write the scores to this file too."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class ApplySettings:
    """Everything that writing masks into a dataset is told."""

    data: Path
    """The dataset: a folder with transforms.json (or another JSON file of that format), or one
    with images/ and a COLMAP model."""
    masks: Path
    """A result folder of `t3dgs-masks refine`, or any folder of masks (white = keep) that are
    named like the images."""
    dilate: int = 0
    """Grow what is masked out by this many pixels of the full-size images."""
    include_eval: bool = False
    """Mask evaluation frames too. Without it they stay whole: metrics are of the entire view."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class RevertSettings:
    """Everything that taking masks out of a dataset is told."""

    data: Path
    """The dataset that masks were applied to."""
    force: bool = False
    """Go on if files were changed since masks were applied. The changes stay: only our entries
    leave the JSON file, and masks that were drawn on are not removed."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class ReportSettings:
    """Everything that writing the HTML report is told."""

    result: tyro.conf.Positional[Path]
    """A result folder of `t3dgs-masks refine`."""
    video_path: Path | None = None
    """The frames: a folder, video, dataset or prepared folder. Default: where `refine` read them,
    or where the result's manifest says. Without any the report has the masks alone, and the
    pictures of an earlier report if there is one."""
    prompt_dir: Path | None = None
    """Folder with masks/ and diffs/. Default: where `refine` read them."""
    debug: bool = False
    """Show the traceback of an error."""


GivenPolarity = Literal["auto", "white-transient", "white-static"]


@dataclass(frozen=True)
class EvaluateSettings:
    """Everything that comparing masks with the truth is told."""

    pred: Path
    """The masks to judge: a result folder of `refine`, a prompt folder, or a folder of masks."""
    gt: Path
    """The true masks, named like those. White may mean transient or static."""
    coarse: Path | None = None
    """What the refine was given (a prompt folder, or masks): shows what became better or worse."""
    json: Path | None = None
    """Write all scores, per frame and in total, to this file."""
    per_frame: bool = False
    """Print every frame rather than the worst."""
    pred_polarity: GivenPolarity = "auto"
    """What white means in --pred. auto knows result folders, and tells others by area: what is
    transient is the smaller part."""
    gt_polarity: GivenPolarity = "auto"
    """What white means in --gt."""
    coarse_polarity: GivenPolarity = "auto"
    """What white means in --coarse."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class ExportSettings:
    """Everything that writing masks for another tool is told."""

    result: tyro.conf.Positional[Path | None] = None
    """A result folder of `t3dgs-masks refine`."""
    to: (
        Literal[
            "nerfstudio",
            "nerfstudio-colmap",
            "colmap",
            "t3dgs",
            "instant-ngp",
            "brush",
            "lichtfeld",
            "postshot",
            "coco",
            "rgba",
        ]
        | None
    ) = None
    """Whose convention."""
    dest: Path | None = None
    """Where to: a new or empty folder, or that of an earlier export, which is replaced."""
    data: Path | None = None
    """The dataset or folder of images that the result was made from. Default: where its manifest
    says."""
    dilate: int = 0
    """Grow what is masked out by this many pixels of the full-size images."""
    list: bool = False
    """Print the table of formats, with the source of each convention, and do nothing else."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class RefilterSettings:
    """Everything that judging the objects of a result anew is told."""

    result: tyro.conf.Positional[Path]
    """A result folder of `t3dgs-masks refine`; its masks are rewritten."""
    keep: str = ""
    """Ids of objects to keep, such as 3,5."""
    drop: str = ""
    """Ids of objects to reject."""
    filter_threshold: float | None = None
    """Keep those of the other objects that have a higher transience score. Default: as refine
    decided."""
    fill_holes: int = 0
    """Fill holes of up to this many pixels in the masks."""
    min_area: int = 0
    """Drop spots of fewer pixels than this from the masks."""
    dilate: int = 0
    """Grow what is masked out by this many pixels, after the other two."""
    apply: Literal["auto", "yes", "no"] = "auto"
    """auto: if the dataset that the frames came from has this result's masks applied, apply the
    new ones in the same way. yes: apply them in any case."""
    exports: bool = True
    """Make the exports of this result anew."""
    debug: bool = False
    """Show the traceback of an error."""
