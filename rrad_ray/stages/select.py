"""select: choose the best student inside the latency budget, or the first stage above all students, and say why."""

from __future__ import annotations

import dataclasses

from rrad_ray import tables
from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import report_html, summary
from rrad_ray.evaluation.calibrated_winner import calibrated_winner
from rrad_ray.evaluation.winner import choose_winner, read_report, write_winner
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
        lineage = checkpoints.with_training(lineage, winner.checkpoint)
        winner = calibrated_winner(winner, content, cfg, "judge more queries of dev, or set calibrate=false")
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
