"""Give a winner scores that are probabilities: its own calibration, and its student's in the head of a copy."""

from __future__ import annotations

import dataclasses
import tempfile

from rrad_ray import tables
from rrad_ray.config import WinnerRule
from rrad_ray.errors import at_place
from rrad_ray.evaluation.learnt import copy_learnt
from rrad_ray.evaluation.summary import ReportContent
from rrad_ray.evaluation.winner import Winner, calibration_of
from rrad_ray.progress import say
from rrad_ray.tables import checkpoints


def calibrated_winner(winner: Winner, content: ReportContent, cfg: WinnerRule, remedy: str) -> Winner:
    """Return the winner with its calibration. Its student is copied to `model/` of the output, with its own
    calibration in its head.

    A sum stays what it was: z-scores know neither slope nor offset. Raises `RradError`, which says `remedy`, for a
    system that `evaluate` could not calibrate, and for a head that takes no offset.
    """
    fit = calibration_of(content, winner.system, cfg.input, remedy)
    winner = dataclasses.replace(winner, calibration=fit)
    if not winner.student:
        return winner
    from rrad_ray.rankers.checkpoint import scale_head  # torch, which the choice itself does not need
    from rrad_ray.rankers.ranker import Ranker

    own = calibration_of(content, winner.student, cfg.input, remedy)
    slope, offset, target = own["slope"], own["offset"], tables.join(cfg.output, "model")
    with at_place(winner.checkpoint, remedy), tempfile.TemporaryDirectory() as folder:
        ranker = Ranker.load(checkpoints.resolve(winner.checkpoint), dtype="float32")
        scale_head(ranker.model, slope, offset)
        ranker.save(folder)
        tables.copy_folder(folder, target)
    copy_learnt(winner.checkpoint, cfg.output)
    say(f"calibrated: {winner.student}, slope {slope:.4g} and offset {offset:.4g} in its head -> {target}")
    smoke = winner.smoke
    if smoke:
        smoke = {**smoke, "scores": [slope * score + offset for score in smoke["scores"]]}
    return dataclasses.replace(winner, checkpoint=target, smoke=smoke)
