"""Times on a device: the cells that the targets ask for, tile forms against each other, then the whole range of sizes."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from .cases import Batch, cases, make_batch, ours
from .correctness import errors, results
from .gpu import Session
from .measure import brief, interleave, peak_bytes_here, summary
from .peers import EAGER, LIMIT, OURS, PEERS
from .run import compare, print_rows

OWN_PRODUCTS = (
    (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 4, 3), (128, 128, 32, 8, 4), (128, 256, 64, 8, 3),
    (64, 128, 64, 4, 4),
)  # fmt: skip
"""Forms of our gradient product, tried in place of the vendor's: rows, columns, depth, warps, stages."""
SIGLIP = tuple(name for name in PEERS if name.startswith("siglip-kernel"))
CLIP = ("memeff", "inf-cl")
COMPILED_AT = (4096, 16384)
"""Batches at which torch.compile is measured: every shape compiles for seconds."""
INF_CL_ROWS = 16384
"""It works in float32 and would take the time of all others together beyond this."""
Results = dict[str, Tensor | None]


class Cell(NamedTuple):
    """One comparison."""

    case: str
    rows: int
    width: int
    dtype: str
    peers: tuple[str, ...]


def key_cells(session: Session) -> None:
    """What the targets ask for: the largest batch at every width, and the small ones at the widest."""
    _measure(session, "key", _key(session))


def extent(session: Session) -> None:
    """Every size, width and dtype that is not measured yet."""
    done = {(r["case"], *r["shape"][1:], r["dtype"]) for r in session.rows("key") if "case" in r}
    _measure(session, "sweep", [c for c in _extent(session) if (c.case, c.rows, c.width, c.dtype) not in done])


def _key(session: Session) -> list[Cell]:
    plan = session.plan
    middle, *others = plan.by_weight
    cells = []
    for width in (middle, *others):
        cells.append(Cell("csd-sigmoid", plan.big, width, "bfloat16", (OURS, EAGER, LIMIT)))
        cells.append(Cell("dot-sigmoid", plan.big, width, "bfloat16", (OURS, *SIGLIP, LIMIT)))
    cells += [Cell("csd-sigmoid", rows, plan.widths[-1], "bfloat16", (OURS, EAGER, LIMIT)) for rows in plan.small]
    return [*cells, Cell("dot-softmax", plan.big, middle, "bfloat16", (OURS, "memeff", LIMIT))]


def _extent(session: Session) -> Iterator[Cell]:
    plan = session.plan
    middle = plan.by_weight[0]
    for width in plan.by_weight:
        for rows in reversed(plan.sizes):
            extra = ("torch.compile",) if rows in COMPILED_AT and width == middle else ()
            clip = tuple(name for name in CLIP if name != "inf-cl" or rows <= INF_CL_ROWS)
            literal = ("literal",) if rows <= 1024 else ()
            yield Cell("csd-sigmoid", rows, width, "bfloat16", (OURS, EAGER, *extra, *literal, LIMIT))
            yield Cell("dot-sigmoid", rows, width, "bfloat16", (OURS, EAGER, *SIGLIP[:1], LIMIT))
            yield Cell("dot-softmax", rows, width, "bfloat16", (OURS, EAGER, *extra, *clip, LIMIT))
        if width == middle:
            some = plan.sizes[len(plan.sizes) // 2]
            for dtype in ("float16", "float32"):
                for name in ("csd-sigmoid", "dot-softmax"):
                    yield Cell(name, some, width, dtype, (OURS, EAGER, LIMIT))
            yield Cell("csd-sigmoid-ids", some, width, "bfloat16", (OURS, EAGER, LIMIT))


def _measure(session: Session, section: str, cells: list[Cell]) -> None:
    plan = session.plan
    for done, cell in enumerate(cells):
        if session.spent(20):
            session.add(section, {"skipped": f"{len(cells) - done} of {len(cells)} comparisons: the time budget"})
            print(f"skipped {len(cells) - done} of {len(cells)} comparisons: the time budget is spent")
            return
        shape = (cell.rows, cell.rows, cell.width)
        try:
            rows = compare(cases()[cell.case], shape, plan.device, cell.dtype, [PEERS[name] for name in cell.peers],
                           plan.repeat, plan.patience, peak_bytes_here)  # fmt: skip
        except Exception as error:
            session.add(section, {"broken": brief(error), "cell": cell._asdict()})
            print(f"broken: {cell}: {brief(error)}")
            continue
        print_rows(rows)
        for row in rows:
            session.add(section, row)


def candidates(session: Session) -> None:
    """The score kernel's forms, and our own gradient products beside the vendor's; one that changes the result is out."""
    if importlib.util.find_spec("triton") is None:
        session.add("candidates", {"absent": "triton is not installed"})
        print("absent: triton is not installed")
        return
    batch = make_batch(cases()["csd-sigmoid"], session.plan.tuned, session.plan.device, torch.bfloat16)
    want = results(ours(), batch)
    for table, variants in _variants(batch.x.mean.device).items():
        rows = []
        for form, changes in variants[: 3 if session.dry else None]:
            if session.spent(40):
                session.add("candidates", {"table": table, "skipped": "the time budget is spent"})
                break
            rows.append({"table": table, "form": form} | _tried(session, batch, want, changes))
            session.add("candidates", rows[-1])
            print(table, form, _told(rows[-1]), flush=True)
        timed = [row for row in rows if "seconds" in row]
        if timed:
            best = min(timed, key=lambda row: row["seconds"])
            session.add("candidates", {"table": table, "winner": best["form"]})
            print(f"winner of {table}: {best['form']}, {_told(best)}", flush=True)


def _variants(device: torch.device) -> dict[str, list[tuple[str, dict[str, object]]]]:
    """By table: names and what they change in `prolap_kernels.backends.triton.configs`."""
    from prolap_kernels.backends.triton import configs

    shipped: tuple[str, dict[str, object]] = ("as shipped", {})
    lift, product = (configs.lift_kind(device), torch.bfloat16), (configs.chip_of(device), torch.bfloat16)
    own = configs.ACCUMULATE[product]
    products = dict.fromkeys((own, *(type(own)(*form) for form in OWN_PRODUCTS)))
    return {
        "LIFT": [
            shipped,
            ("library scores", {"VENDOR_SCORES": (torch.bfloat16, torch.float32)}),
            *((_name(tile), {"LIFT": configs.LIFT | {lift: tile}}) for tile in configs.CANDIDATES.get(lift, ())),
        ],
        "gradient products": [
            shipped,
            *((f"own {_name(t)}", {"VENDOR": False, "ACCUMULATE": configs.ACCUMULATE | {product: t}}) for t in products),
        ],
    }  # fmt: skip


def _name(tile: tuple[int, ...]) -> str:
    return "x".join(str(int(part)) for part in tile)


def _tried(session: Session, batch: Batch, want: Results, changes: dict[str, object]) -> dict[str, Any]:
    from prolap_kernels.backends.triton import configs

    plan = session.plan
    try:
        with mock.patch.multiple(configs, **changes) if changes else contextlib.nullcontext():
            off = errors(results(ours(), batch), {name: None if w is None else w.double() for name, w in want.items()})
            if max(off.values()) > 0.01:
                return {"failed": f"changes the result by {max(off.values()):.1e}"}
            found = interleave({OURS: ours()}, batch, plan.device, plan.repeat, plan.patience)[OURS]
    except Exception as error:
        return {"failed": brief(error)}
    return {"failed": found} if isinstance(found, str) else summary(found)


def _told(row: dict[str, Any]) -> str:
    return f"{1e3 * row['seconds']:.3f} ms" if "seconds" in row else f"failed: {row['failed']}"
