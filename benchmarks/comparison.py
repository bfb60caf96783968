"""Contenders side by side on one case: a row each, printed, plotted and shown in the documents.

Everyone's loss and gradients are checked against float64 first; a wrong result has no time. Memory is the peak above inputs and
gradients, on a CPU in a process of its own:

    python -m benchmarks.comparison CASE PEER N M D [--dtype ...]     # peak bytes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from . import measure
from .cases import Batch, Case, Loss, Shape, cases, make_batch, train
from .correctness import check
from .measure import brief, child, interleave, ratio, summary
from .peers import LIMIT, OURS, PEERS, Peer, refusal
from .records import (
    UNMEASURED,
    Row,
    argument_parser,
    load,
    mb_text,
    origin,
    quartiles_text,
    ratio_text,
    shape_text,
    shows,
    table,
)  # fmt: skip
from .truth import truth

DTYPES = ("float32", "float16", "bfloat16", "float64")
WEIGHTED = (("ours", OURS), ("limit", LIMIT))
"""Fields `times_...` and whose time they divide by."""


def peak_bytes(loss: Loss, batch: Batch) -> int:
    """Most memory during a call above inputs and gradients, in this process."""
    return measure.peak_bytes(lambda: train(loss, batch), batch.clear, batch.leaves, batch.x.mean.device.type)


def peak_row(name: str, loss: Loss, batch: Batch, apart: bool = True) -> Row:
    """`peak_bytes` of the peer `name`; on a CPU, `apart`, from a process of its own, or what that died of."""
    if not apart or batch.x.mean.device.type != "cpu":
        return {"peak_bytes": peak_bytes(loss, batch)}
    dtype = str(batch.x.mean.dtype).removeprefix("torch.")
    row = child("benchmarks.comparison", batch.case.name, name, *batch.shape, "--dtype", dtype)
    return row if "peak_bytes" in row else {"memory_failed": row["failed"]}


def compare(
    case: Case, shape: Shape, device: str, dtype: str, peers: Iterable[Peer], repeat: int, patience: float, apart: bool = True
) -> list[Row]:  # fmt: skip
    """A row per peer: its figures, why it has none ("absent"), or what went wrong ("failed"). `apart` as in `peak_row`."""
    batch = make_batch(case, shape, device, getattr(torch, dtype))
    rows = {
        p.name: {"case": case.name, "passes": case.passes, "contender": p.name, "shape": list(shape), "dtype": dtype}
        for p in peers
    }
    losses = _checked(rows, batch, device)
    works = {name: lambda loss=loss: train(loss, batch) for name, loss in losses.items()}
    times = interleave(works, device, repeat, patience, batch.clear)
    unit, amount = ("elements", batch.elements()) if case.is_elementwise else ("flops", batch.flops())
    for name, calls in times.items():
        if isinstance(calls, str):
            rows[name]["failed"] = calls
            continue
        figures = summary(calls)
        rows[name] |= figures | {f"{unit}_per_second": amount / figures["seconds"]}
        rows[name] |= {
            f"times_{key}": ratio(calls, times[who]) for key, who in WEIGHTED if isinstance(times.get(who), list)
        }
        if figures["seconds"] > patience > 0:
            rows[name]["memory_failed"] = f"a call takes more than {patience:g} s, and three are needed"
        else:
            rows[name] |= peak_row(name, losses[name], batch, apart)
    return list(rows.values())


def _checked(rows: dict[str, Row], batch: Batch, device: str) -> dict[str, Loss]:
    """The losses that may be timed; the rows of the others say why not."""
    exact = truth(batch)
    losses: dict[str, Loss] = {}
    for name, row in rows.items():
        if reason := refusal(PEERS[name], batch.case, batch.shape, device):
            row["absent"] = reason
            continue
        try:
            loss = PEERS[name].build()
            verdict = check(PEERS[name], loss, batch, exact)
        except Exception as error:  # a peer's failure is a row, not the end of the run
            row["failed"] = brief(error)
            continue
        row["errors"] = verdict.errors
        if verdict.why:
            row["failed"] = f"wrong, so not timed: {verdict.why}"
        else:
            losses[name] = loss
    return losses


def print_rows(rows: Sequence[Row]) -> None:
    """The table of one comparison."""
    first = rows[0]
    print(f"\n{first['case']}, {first['passes']}, {first['dtype']}, N x M x D = {' x '.join(map(str, first['shape']))}")
    elementwise = any("elements_per_second" in row for row in rows)  # these have no limit to compare with
    speed = ("elements_per_second", 1e-9, ".3f") if elementwise else ("times_limit", 1, ".2f")
    head = ("contender", "ms", "quartiles", "MB", "time/ours", "Gelem/s" if elementwise else "time/limit", "error")
    print(f"{head[0]:<24}{head[1]:>10}{head[2]:>20}{head[3]:>10}{head[4]:>11}{head[5]:>12}{head[6]:>10}")
    for row in rows:
        reason = [f"{key}: {row[key]}" for key in ("absent", "failed") if key in row]
        if reason:
            print(f"{row['contender']:<24}{reason[0]}")
            continue
        low, high = (1e3 * q for q in row["quartiles"])
        columns = (("peak_bytes", 1e-6, ".1f"), ("times_ours", 1, ".2f"), speed)
        cells = [format(factor * row[key], form) if key in row else "-" for key, factor, form in columns]
        worst = max(row["errors"].values(), default=None)
        error = "-" if worst is None else f"{worst:.0e}"
        print(f"{row['contender']:<24}{1e3 * row['seconds']:>10.2f}{f'{low:.2f}..{high:.2f}':>20}"
              f"{cells[0]:>10}{cells[1]:>11}{cells[2]:>12}{error:>10}", flush=True)  # fmt: skip


def plot_rows(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Time, memory and speed against the batch size, a PNG for each case, dtype and width that was measured. Needs matplotlib."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if "seconds" in row:
            groups.setdefault((row["case"], row["dtype"], row["shape"][2]), []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    return [_plot(group, folder / f"{case}-{dtype}-{width}.png") for (case, dtype, width), group in groups.items()]


def _plot(rows: Sequence[Row], path: Path) -> Path:
    from matplotlib.figure import Figure

    panels: list[tuple[str, str, Callable[[Any], float]]] = [
        ("time, ms", "seconds", lambda seconds: 1e3 * seconds),
        ("memory above inputs and gradients, MB", "peak_bytes", lambda size: size / 1e6),
        ("elements per second", "elements_per_second", float)
        if any("elements_per_second" in row for row in rows)
        else ("share of the limit's speed", "times_limit", lambda ratio: 1 / ratio),
    ]
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (label, field, value) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in dict.fromkeys(row["contender"] for row in rows):
            points = sorted((row["shape"][0], value(row[field])) for row in rows
                            if row["contender"] == name and row.get(field))  # fmt: skip
            if points:
                axes.plot(
                    *zip(*points, strict=True), "--" if name == LIMIT else "-", marker="o", markersize=3, label=name
                )
        axes.set_xscale("log", base=2)
        axes.set_yscale("linear" if field == "times_limit" else "log")
        axes.set_xlabel("rows of a batch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    first = rows[0]
    figure.suptitle(f"{first['case']}, {first['dtype']}, D = {first['shape'][2]}, {first['passes']}")
    figure.savefig(path, dpi=150)
    return path


@shows("cpu/ppcl.json")
def losses(record: Row) -> str:
    """Time and memory of everyone on one case."""
    rows = []
    for row in record["rows"]:
        if "failed" in row:
            rows.append([row["contender"], f"failed: {row['failed']}", "", "", ""])
        elif "absent" not in row:
            times = (ratio_text(row["times_ours"]), ratio_text(row["times_limit"]))
            rows.append([row["contender"], quartiles_text(row), mb_text(row), *times])
    first = record["rows"][0]
    head = ["", "ms (quartiles)", "MB above inputs and gradients", "time / ours", "time / limit"]
    return f"N × M × D = {shape_text(first)}, {first['dtype']}, {origin(record)}:\n\n{table(head, rows)}"


@shows("cpu/limit.json")
def limit(record: Row) -> str:
    """The ratio to the three products, case by case."""
    cells = {(row["case"], row["contender"]): row for row in record["rows"] if "seconds" in row}
    others = [name for name in dict.fromkeys(who for _, who in cells) if name not in (OURS, LIMIT)]
    rows = []
    for case in dict.fromkeys(row["case"] for row in record["rows"]):
        own, bare = cells.get((case, OURS)), cells.get((case, LIMIT))
        if own is None or bare is None:
            rows.append([case, *["failed"] * (4 + len(others))])
            continue
        ratios = [ratio_text(cells[case, who]["times_limit"]) if (case, who) in cells else "-" for who in others]
        rows.append(
            [
                case,
                quartiles_text(own),
                quartiles_text(bare),
                f"**{ratio_text(own['times_limit'])}**",
                *ratios,
                mb_text(own),
            ]
        )
    first = record["rows"][0]
    products = [f"{name} / products" for name in ("ours", *others)]
    head = ["case", "ours, ms (quartiles)", "three products, ms", *products, "MB"]
    text = f"N × M × D = {shape_text(first)}, {first['dtype']}, {origin(record)}"
    return f"{text}; MB: peak of ours above inputs and gradients:\n\n{table(head, rows)}"


def elementwise() -> str:
    """Everyone's time and memory on the matrix of inclusions, forward and with gradients: a table for each run."""
    names = ("cpu/elementwise.json", "cpu/elementwise-gradients.json")
    return "\n\n".join(_elementwise(record) for name in names if (record := load(name))) or UNMEASURED


def _elementwise(record: Row) -> str:
    rows = []
    for row in record["rows"]:
        figures = [row.get("failed") or row.get("absent", "-"), "", ""]
        if "seconds" in row:
            figures = [quartiles_text(row, 1), f"{row['times_ours']:.2f}", mb_text(row)]
        rows.append([row["case"], shape_text(row), row["contender"], *figures])
    head = ["case", "N × M × D", "", "ms (quartiles)", "time / ours", "MB above inputs and gradients"]
    return f"float32, {origin(record)}:\n\n{table(head, rows)}"


def main() -> None:
    parser = argument_parser("comparison", __doc__)
    parser.add_argument("case", choices=cases())
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("shape", type=int, nargs=3, metavar="N M D")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    batch = make_batch(cases()[args.case], tuple(args.shape), "cpu", getattr(torch, args.dtype))
    print(f'{{"peak_bytes": {peak_bytes(PEERS[args.peer].build(), batch)}}}')


if __name__ == "__main__":
    main()
