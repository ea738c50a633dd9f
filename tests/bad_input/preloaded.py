"""What the commands import when they run, for the server that calls are forked from."""

import sam2.sam2_video_predictor
import segment_anything.modeling

import t3dgs_masks.apply_job
import t3dgs_masks.cli
import t3dgs_masks.demo_job
import t3dgs_masks.evaluate_job
import t3dgs_masks.export_job
import t3dgs_masks.prepare_job
import t3dgs_masks.refilter_job
import t3dgs_masks.refine_job
import t3dgs_masks.report_job

# What is imported when arguments are read, too: calls may run as a user who cannot read the files.
t3dgs_masks.cli.parse(["refine", "--video-path", "a", "--result-dir", "b"])

__all__ = ["sam2", "segment_anything", "t3dgs_masks"]
