"""The printed table: retrieval beside the baseline's, then the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prolap.evaluation.claims import Claim

_ROWS = (("t2a", "T->A"), ("a2t", "A->T"))
_COLUMNS = (("r1", "R@1"), ("r5", "R@5"), ("r10", "R@10"), ("map10", "mAP@10"))


def print_report(metrics: Mapping[str, Any], claims: Sequence[Claim], *, console: Any = None) -> None:
    """Print retrieval of model and baseline (percent), on unseen source sets too, and what became of every claim."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError as error:  # pragma: no cover
        raise ImportError("The report needs rich: pip install prolap[train]") from error
    console = console or Console()
    ours, theirs = metrics["retrieval"], (metrics.get("baseline") or {}).get("retrieval") or {}
    chance = 100 * ours["chance_r1"]
    sides = "model / baseline, " if theirs else ""
    title = f"Retrieval, {sides}% (N = {ours['n']:,} clips, chance R@1 {chance:.2g})"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for _, head in _COLUMNS:
        table.add_column(head, justify="right")
    _add(table, ours, theirs, "")
    unseen = ours.get("unseen_sources")
    if unseen:
        table.add_section()
        _add(table, unseen, theirs.get("unseen_sources") or {}, f"  unseen sources (n = {unseen['n']:,})")
    console.print(table)
    difference = ((metrics.get("comparison") or {}).get("retrieval") or {}).items()
    for name, row in difference:
        label = dict(_ROWS).get(name, "both")
        low, high = 100 * row["r1"]["low"], 100 * row["r1"]["high"]
        console.print(
            f"R@1 minus the baseline's, {label}: {100 * row['r1']['value']:+.1f} [{low:+.1f}, {high:+.1f}] points"
        )
    console.print(_claim_table(Table, claims))
    for claim in claims:
        console.print(f"  {claim.name}: {claim.detail}", style="dim", highlight=False, soft_wrap=True)
    judged = [claim.passed for claim in claims if claim.passed is not None]
    rest = f"; {len(claims) - len(judged)} were not measured" if len(judged) < len(claims) else ""
    console.print(f"{sum(judged)} of {len(judged)} claims passed{rest}.")


def _add(table: Any, ours: Mapping[str, Any], theirs: Mapping[str, Any], note: str) -> None:
    for key, label in _ROWS:
        cells = [label + note]
        for column, _ in _COLUMNS:
            sides = [ours[key], theirs[key]] if theirs else [ours[key]]
            cells.append(" / ".join(f"{100 * side[column]:.1f}" for side in sides))
        table.add_row(*cells)


_MARK = {True: "[green]passed[/green]", False: "[red]failed[/red]", None: "not measured"}


def _claim_table(table_class: Any, claims: Sequence[Claim]) -> Any:
    table = table_class(title="Claims of the paper", title_justify="left", show_lines=False)
    for head, options in (
        ("claim", {"no_wrap": True}),
        ("value", {"justify": "right"}),
        ("control", {"justify": "right"}),
        ("threshold", {"justify": "right"}),
        ("", {"no_wrap": True}),
    ):
        table.add_column(head, **options)
    for claim in claims:
        numbers = _number(claim.value), _number(claim.control), f"{claim.threshold:g}"
        table.add_row(claim.name, *numbers, _MARK[claim.passed])
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
