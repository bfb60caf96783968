from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from prolap.evaluation import plots
from prolap.evaluation.protocol import Evidence
from prolap.evaluation.traversal import Step, Walk
from prolap.evaluation.uncertainty import by_level_matched, risk_coverage


def made() -> tuple[dict[str, Any], Evidence]:
    rng = np.random.default_rng(0)
    level = np.repeat(np.arange(4), 60)
    length = rng.integers(3, 14, 240)
    u = -4 - 0.4 * level + rng.normal(0, 0.2, 240)
    matched = by_level_matched(level, u, length)
    row = {"ratio": [0.0, 0.4, 0.9], "mean": [-5.0, -4.0, -3.0], "low": [-5.2, -4.4, -3.5], "high": [-4.8, -3.7, -2.6]}
    steps = [
        Step(0.0, 0.4, "a slow low cello melody while applause starts", 3, True),
        Step(0.4, 1.0, "music", 0, False),
    ]
    many = [
        Step(i / 15, (i + 1) / 15, f"a caption of a certain length, number {i}, that goes on", i % 4, i % 2 == 0)
        for i in range(15)
    ]
    chain = ["music", "strings", "a cello", "a slow low cello melody while applause starts"]
    return {
        "uncertainty": {
            "length_spearman": -0.4,
            "length_spearman_random_words": None,
            "level_partial": -0.3,
            "by_level_matched": matched._asdict(),
        }
    }, Evidence(
        captions={"u": u, "u_random": rng.normal(-4, 0.1, 240), "length": length, "level": level},
        sweep={"audio": row, "text": row},
        walks=[Walk(f"{k}.wav", 0.5, s, chain) for k, s in enumerate((steps, many))],
        risk={name: risk_coverage(rng.integers(0, 2, 100), rng.random(100)) for name in ("t2a", "a2t")},
    )


def colours(path: Path) -> int:
    pixels = (imread(path)[..., :3] * 255).astype(np.int64) @ [1, 256, 65536]
    return len(np.unique(pixels))


def test_every_plot_is_written_and_shows_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_DPI", 60)
    metrics, evidence = made()
    log = tmp_path / "train.jsonl"
    rows = [{"step": s, "loss/pairs": 900 / s, "loss/vib": 3.0, "scale": 10} for s in range(1, 900, 10)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = plots.write_plots(metrics, evidence, tmp_path / "plots", log=log)
    assert [path.name for path in written] == [
        "uncertainty.png",
        "masking.png",
        "traversal.png",
        "risk_coverage.png",
        "losses.png",
    ]
    assert all(colours(path) > 60 for path in written), "an empty figure has fewer shades"


def test_plots_without_input_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "empty.jsonl"
    log.write_text("")
    assert plots.write_plots({"uncertainty": None}, Evidence(), tmp_path, log=log) == []


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure) or path)
    return figures


def test_losses_have_a_floor_and_stand_beside_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, log = drawn(monkeypatch), tmp_path / "train.jsonl"
    values = {"a": (9.0, 8.0), "b": (1e3, 1e-9)}
    log.write_text(
        "".join(f'{{"step": {s}, "loss/a": {values["a"][s]}, "loss/b": {values["b"][s]}}}\n' for s in (0, 1))
    )
    (tmp_path / "dev.jsonl").write_text('{"step": 1, "r1_mean": 0.25}\n{"step": \n')
    plots.loss_plot(log, tmp_path / "x.png")
    first, second, dev = figures[0].axes
    assert (first.get_ylim()[0], second.get_ylim()[0], dev.get_ylim()[0]) == (0, 1.0, 0)
    assert dev.lines[0].get_xydata().tolist() == [[1, 25]]


def test_walks_fill_their_figure_and_name_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, (_, evidence) = drawn(monkeypatch), made()
    both = evidence.walks
    for walks in (both[:1], both):
        evidence.walks = walks
        plots.traversal_plot(evidence, tmp_path / "x.png")
    short, long = (figure.get_size_inches()[1] for figure in figures)
    assert short < 4 < long
    assert figures[0].axes[0].get_title() == "0.wav: precision 0.50"


def test_undefined_values_and_unmatched_levels_are_drawn_as_such(tmp_path: Path) -> None:
    metrics, evidence = made()
    metrics["uncertainty"] |= {"level_partial": None, "by_level_matched": None}
    assert plots.uncertainty_plot(metrics, evidence, tmp_path / "a.png").exists()


def test_loss_plot_has_a_panel_a_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss/a": 2.0, "loss/b": 1.0}\n\n{"step": 2, "loss/a": 1.0, "loss/b": NaN}\n')
    kept: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: kept.append(figure) or path)
    plots.loss_plot(log, tmp_path / "x.png")
    lines = {axis.get_title(): axis.lines[0].get_xydata().tolist() for axis in kept[0].axes}
    assert lines == {"a": [[1, 2], [2, 1]], "b": [[1, 1]]}
