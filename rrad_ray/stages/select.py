"""select: choose the best student inside the latency budget, or the first stage above all students, and say why."""

from __future__ import annotations

import dataclasses
import tempfile

from rrad_ray import tables
from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.evaluation import report_html, summary
from rrad_ray.evaluation.winner import Winner, calibration_of, choose_winner, read_report, write_winner
from rrad_ray.progress import say
from rrad_ray.tables import checkpoints


@tables.stage("select", None)
def run(cfg: SelectConfig, out: tables.Output) -> None:
    """Write `winner.json`, with a comparison of student and first stage, and the report with winner and reason.

    The report goes to `publish` too. Raises `RradError` if there is nothing to choose.
    """
    lineage = tables.read_manifest(cfg.input).lineage
    if lineage.evaluation is None:
        raise RradError(cfg.input, "no output of evaluate", "name the output of evaluate")
    content = read_report(cfg.input)
    encoders = lineage.first_stage.encoders if lineage.first_stage else {}
    winner = choose_winner(content, lineage.evaluation.students, cfg, encoders)
    if cfg.calibrate:
        winner = dataclasses.replace(winner, calibration=calibration_of(content, winner.system, cfg.input))
    if cfg.calibrate and winner.student:
        own = checkpoints.student_lineage(winner.checkpoint)
        facts = {name: getattr(own, name) for name in ("judge", "labels", "training", "simulated")}
        lineage = dataclasses.replace(lineage, **facts)  # the copy is read as the output of train is
        winner = _with_calibrated_student(winner, content, cfg)
    content["winner"] = winner.report_entry()
    winner = dataclasses.replace(winner, finding=summary.headline(content))
    say(winner.finding)
    say(f"winner: {winner.system}. {winner.reason}")
    write_winner(out.uri, winner)
    files = {"report.json": tables.json_text(content, indent=1), "report.html": report_html.report_page(content)}
    for folder in filter(None, (out.uri, cfg.publish)):
        for name, text in files.items():
            tables.write_text(tables.join(folder, name), text)
        say(f"report: {tables.join(folder, 'report.html')}")
    out.commit(lineage=lineage, winner=dataclasses.asdict(winner))


def _with_calibrated_student(winner: Winner, content: summary.ReportContent, cfg: SelectConfig) -> Winner:
    """Copy the winner's student with its own calibration in its head; return the winner with this one in its place.

    A sum stays what it was: z-scores know neither slope nor offset. Raises `RradError` for a head that takes none.
    """
    from rrad_ray.rankers.checkpoint import scale_head  # torch, which the choice itself does not need
    from rrad_ray.rankers.ranker import Ranker

    own = calibration_of(content, winner.student, cfg.input)
    slope, offset, target = own["slope"], own["offset"], tables.join(cfg.output, "model")
    with at_place(winner.checkpoint, "set calibrate=false"), tempfile.TemporaryDirectory() as folder:
        ranker = Ranker.load(checkpoints.resolve(winner.checkpoint), dtype="float32")
        scale_head(ranker.model, slope, offset)
        ranker.save(folder)
        tables.copy_folder(folder, target)
    say(f"calibrated: {winner.student}, slope {slope:.4g} and offset {offset:.4g} in its head -> {target}")
    smoke = winner.smoke
    if smoke:
        smoke = {**smoke, "scores": [slope * score + offset for score in smoke["scores"]]}
    return dataclasses.replace(winner, checkpoint=target, smoke=smoke)
