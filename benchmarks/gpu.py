"""What a device is measured for: what it does at best, launches, the cells that the targets ask for, inclusion between all rows,
the losses of a step, kernel configurations against each other, then the whole range of sizes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch

from . import records
from . import step as training_step
from .cases import Batch, cases, make_batch, ours, train
from .comparison import compare, print_rows
from .correctness import errors
from .measure import brief, device_work, interleave, seconds, summary
from .peers import EAGER, LIMIT, OURS, PEERS
from .records import Row, mb_text, ms_text, origin, quartiles_text, ratio_text, table
from .session import Session
from .truth import Results, results

OWN_PRODUCTS = (
    (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 4, 3), (128, 128, 32, 8, 4), (128, 256, 64, 8, 3),
    (64, 128, 64, 4, 4),
)  # fmt: skip
"""Configurations of our gradient product, tried in place of the vendor's: rows, columns, depth, warps, stages."""
SIGLIP = tuple(name for name in PEERS if name.startswith("siglip-kernel"))
CLIP = ("memeff", "inf-cl")
RIVALS = ("torch.compile", "PyKeOps")
COMPILED_AT = (4096, 16384)
"""Batches at which torch.compile is measured: every shape compiles for seconds."""
INF_CL_ROWS = 16384
"""It works in float32 and would take the time of all others together beyond this."""
LITERAL_ROWS = 1024
SAME_RESULT = 0.01
"""A candidate that changes a result by more is out."""
DRY_CANDIDATES = 3


def ceilings(session: Session) -> None:
    """What the device does at best: bytes per second of a copy (read and written), products of large 16-bit matrices."""
    device, dry = session.plan.device, session.dry
    source = torch.randn(1 << (12 if dry else 29), device=device)
    target = torch.empty_like(source)
    side = 64 if dry else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for name, work, amount in (("copy, bytes/s", lambda: target.copy_(source), 2 * source.nbytes),
                               ("bfloat16 product, flops/s", lambda: a @ b, 2 * side**3)):  # fmt: skip
        times = [seconds(work, device) for _ in range(13)][3:]
        rate = amount / summary(times)["seconds"]
        session.add("ceilings", {"ceiling": name, "rate": rate}, f"{name}: {rate:.3g}")


def launches(session: Session) -> None:
    """The forward call with gradients at the batch of the paper, features included."""
    size, width = session.plan.small[0], session.plan.widths[-1]
    for name in ("csd-sigmoid", "dot-sigmoid", "dot-softmax"):
        batch = make_batch(cases()[name], (size, size, width), session.plan.device, torch.bfloat16)
        names = device_work(lambda batch=batch: ours()(batch), session.plan.device)
        row = {"case": name, "shape": [size, size, width], "launches": len(names), "names": names}
        line = f"{name}, {size} x {size} x {width}, forward with gradients: {len(names)} launches"
        session.add("launches", row, line)


class Cell(NamedTuple):
    """One comparison of N x N pairs."""

    case: str
    rows: int
    width: int
    peers: tuple[str, ...]
    dtype: str = "bfloat16"


def key_cells(session: Session) -> None:
    """What the targets ask for: the largest batch at every width, and the small ones at the widest."""
    _measure(session, "key", _key(session))


def elementwise(session: Session) -> None:
    """The matrix of inclusions, forward and with gradients, beside torch.compile and PyKeOps."""
    rows, _, width = session.plan.elementwise
    peers = (OURS,) if session.dry else (OURS, *RIVALS)
    names = ("inclusion-score-forward", "inclusion-score")
    _measure(session, "elementwise", [Cell(name, rows, width, peers, "float32") for name in names])


def extent(session: Session) -> None:
    """Every size, width and dtype that is not measured yet."""
    done = {(r["case"], *r["shape"][1:], r["dtype"]) for r in session.rows("key") if "case" in r}
    _measure(session, "sweep", [c for c in _extent(session) if (c.case, c.rows, c.width, c.dtype) not in done])


def _key(session: Session) -> list[Cell]:
    plan = session.plan
    cells = []
    for width in plan.by_weight:
        cells.append(Cell("csd-sigmoid", plan.big, width, (OURS, EAGER, LIMIT)))
        cells.append(Cell("dot-sigmoid", plan.big, width, (OURS, *SIGLIP, LIMIT)))
    cells += [Cell("csd-sigmoid", rows, plan.widths[-1], (OURS, EAGER, LIMIT)) for rows in plan.small]
    return [*cells, Cell("dot-softmax", plan.big, plan.by_weight[0], (OURS, "memeff", LIMIT))]


def _extent(session: Session) -> Iterator[Cell]:
    plan = session.plan
    middle = plan.by_weight[0]
    for width in plan.by_weight:
        for rows in reversed(plan.sizes):
            extra = ("torch.compile",) if rows in COMPILED_AT and width == middle else ()
            clip = tuple(name for name in CLIP if name != "inf-cl" or rows <= INF_CL_ROWS)
            literal = ("literal",) if rows <= LITERAL_ROWS else ()
            yield Cell("csd-sigmoid", rows, width, (OURS, EAGER, *extra, *literal, LIMIT))
            yield Cell("dot-sigmoid", rows, width, (OURS, EAGER, *SIGLIP[:1], LIMIT))
            yield Cell("dot-softmax", rows, width, (OURS, EAGER, *extra, *clip, LIMIT))
        if width == middle:
            some = plan.sizes[len(plan.sizes) // 2]
            for dtype in ("float16", "float32"):
                for name in ("csd-sigmoid", "dot-softmax"):
                    yield Cell(name, some, width, (OURS, EAGER, LIMIT), dtype)
            yield Cell("csd-sigmoid-ids", some, width, (OURS, EAGER, LIMIT))


def _measure(session: Session, section: str, cells: list[Cell]) -> None:
    plan = session.plan
    for done, cell in enumerate(cells):
        if session.spent(20):
            session.skip(section, f"{len(cells) - done} of {len(cells)} comparisons: ")
            return
        shape = (cell.rows, cell.rows, cell.width)
        peers = [PEERS[name] for name in cell.peers]
        try:
            case = cases()[cell.case]
            rows = compare(case, shape, plan.device, cell.dtype, peers, plan.repeat, plan.patience, apart=False)
        except Exception as error:
            session.add(section, {"broken": brief(error), "cell": cell._asdict()}, f"broken: {cell}: {brief(error)}")
            continue
        print_rows(rows)
        for row in rows:
            session.add(section, row)


def step(session: Session) -> None:
    """The losses of a whole ProLAP step at the paper's size: launches, time, memory."""
    for row in training_step.rows(session.plan.device, 2 if session.dry else 41):
        session.add("step", row, str(row))


def candidates(session: Session) -> None:
    """The score kernel's configurations, and our own gradient products beside the vendor's; one that changes results is out."""
    if importlib.util.find_spec("triton") is None:
        session.add("candidates", {"absent": "triton is not installed"}, "absent: triton is not installed")
        return
    batch = make_batch(cases()["csd-sigmoid"], session.plan.tuned, session.plan.device, torch.bfloat16)
    shipped = results(ours(), batch)
    for group, variants in _variants(batch.x.mean.device).items():
        rows = []
        for form, changes in variants[: DRY_CANDIDATES if session.dry else None]:
            if session.spent(40):
                session.skip("candidates", f"{group}: ")
                return
            rows.append({"table": group, "form": form} | _tried(session, batch, shipped, changes))
            session.add("candidates", rows[-1], f"{group} {form} {_figure(rows[-1])}")
        timed = [row for row in rows if "seconds" in row]
        if timed:
            best = min(timed, key=lambda row: row["seconds"])
            winner = {"table": group, "winner": best["form"]}
            session.add("candidates", winner, f"winner of {group}: {best['form']}, {_figure(best)}")


def _variants(device: torch.device) -> dict[str, list[tuple[str, dict[str, object]]]]:
    """By table: names and what they change in `prolap_kernels.backends.triton.configs`."""
    from prolap_kernels.backends.triton import configs

    shipped: tuple[str, dict[str, object]] = ("as shipped", {})
    score, product = (configs.bilinear_kind(device), torch.bfloat16), (configs.chip_of(device), torch.bfloat16)
    own = configs.ACCUMULATE[product]
    products = dict.fromkeys((own, *(type(own)(*form) for form in OWN_PRODUCTS)))
    return {
        "BILINEAR": [
            shipped,
            ("library scores", {"VENDOR_SCORES": (torch.bfloat16, torch.float32)}),
            *((_name(tile), {"BILINEAR": configs.BILINEAR | {score: tile}}) for tile in configs.CANDIDATES.get(score, ())),
        ],
        "gradient products": [
            shipped,
            *((f"own {_name(t)}", {"VENDOR": False, "ACCUMULATE": configs.ACCUMULATE | {product: t}}) for t in products),
        ],
    }  # fmt: skip


def _name(configuration: tuple[int, ...]) -> str:
    return "x".join(str(int(part)) for part in configuration)


def _tried(session: Session, batch: Batch, shipped: Results, changes: dict[str, object]) -> Row:
    from prolap_kernels.backends.triton import configs

    plan, exact = session.plan, {name: None if value is None else value.double() for name, value in shipped.items()}
    try:
        with mock.patch.multiple(configs, **changes) if changes else contextlib.nullcontext():
            off = max(errors(results(ours(), batch), exact).values())
            if off > SAME_RESULT:
                return {"failed": f"changes the result by {off:.1e}"}
            loss = ours()
            times = interleave({OURS: lambda: train(loss, batch)}, plan.device, plan.repeat, plan.patience, batch.clear)
    except Exception as error:
        return {"failed": brief(error)}
    calls = times[OURS]
    return {"failed": calls} if isinstance(calls, str) else summary(calls)


def _figure(row: Row) -> str:
    return f"{1e3 * row['seconds']:.3f} ms" if "seconds" in row else f"failed: {row['failed']}"


def report() -> str:
    """Targets, then the sweep, of every device that was measured."""
    paths = sorted((records.RESULTS / "gpu").glob("*.json"))
    parts = [device_report(json.loads(path.read_text())) for path in paths]
    return "\n\n".join(part for part in parts if part) or "Not measured on a GPU yet: every cell is open."


def device_report(record: Row) -> str:
    """Of one session; a dry run is never shown."""
    if record["dry_run"]:
        return ""
    sections: dict[str, list[Row]] = record["sections"]
    probes = [r for r in sections.get("correctness", []) if "probe" in r]
    wrong = sum("failed" in r for r in probes)
    reached = ", ".join(f"{r['ceiling']} {r['rate']:.3g}" for r in sections.get("ceilings", []) if "rate" in r)
    sanitized = [f"{r['tool']} {r['case']}: {r.get('summary', r.get('skipped'))}"
                 for r in sections.get("sanitizer", []) if "tool" in r]  # fmt: skip
    parts = [
        f"**{origin(record)}**, {record['time'][:10]}. Within the bounds against float64: {len(probes) - wrong} of {len(probes)} "
        f"results; sanitizer: {sanitized or 'not run'}; reached on large operands: {reached or 'not measured'}.",
        _targets(sections.get("targets", [])),
        _sweep([r for name in ("key", "sweep") for r in sections.get(name, []) if "contender" in r]),
        _candidates(sections.get("candidates", [])),
    ]
    return "\n\n".join(part for part in parts if part)


def _targets(rows: Sequence[Row]) -> str:
    word = {True: "passed", False: "**failed**", None: "unmeasured"}
    return table(["target", "asked", "measured", ""], [
        [r["target"], r["asked"].replace("<=", "≤").replace(">=", "≥"), "-" if r["value"] is None else f"{r['value']:.3g}",
         word[r["passed"]]]
        for r in rows if "target" in r
    ])  # fmt: skip


def _sweep(rows: Sequence[Row]) -> str:
    """A line per case, size and dtype: ours and the limit in ms, everyone else as a multiple of ours."""
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["case"], row["dtype"], row["shape"][2], row["shape"][0]), {})[row["contender"]] = row
    others = [who for who in dict.fromkeys(r["contender"] for r in rows if "seconds" in r) if who not in (OURS, LIMIT)]
    lines = []
    for (case, dtype, width, size), group in sorted(cells.items()):
        own, bare = group.get(OURS, {}), group.get(LIMIT, {})
        figures = [own.get("failed", "-"), *["-"] * (3 + len(others))]
        if "seconds" in own:
            share = [ms_text(bare), ratio_text(own["times_limit"])] if "seconds" in bare else ["-", "-"]
            times = [
                ratio_text(group[who]["times_ours"]) if "times_ours" in group.get(who, {}) else "-" for who in others
            ]
            figures = [ms_text(own), *share, mb_text(own), *times]
        lines.append([case, dtype, f"{size:,}", str(width), *figures])
    head = ["case", "dtype", "B", "D", "ours, ms", "three products, ms", "ours / products", "MB"]
    return table([*head, *(f"{name} / ours" for name in others)], lines) if lines else ""


def _candidates(rows: Sequence[Row]) -> str:
    tried = [r for r in rows if "seconds" in r or "failed" in r]
    lines = [[r["table"], r["form"], quartiles_text(r) if "seconds" in r else f"failed: {r['failed']}"] for r in tried]
    return table(["candidate", "rows x columns x depth x warps x stages", "ms (quartiles)"], lines) if lines else ""
