"""Campaigns that try to break what is promised: `python -m tests.campaign [NAME ...]`, minutes by default.

--count takes hours if it says so. Results lie under benchmarks/results/reliability with their counts, what they ran on and the
failures, each with the command that repeats it. Exit status 1 if there is any.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.records import RESULTS, argument_parser, stamp, write_json
from tests.campaign import CAMPAIGNS
from tests.campaign.common import Campaign, Tally, run


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser("campaign", __doc__)
    parser.prog = "python -m tests.campaign"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CAMPAIGNS)}; by default all")
    parser.add_argument("--count", type=int, help="what to reach: kills, damaged files, calls, ... (default: minutes)")
    parser.add_argument("--minutes", type=float, help="stop each campaign after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next has the next number")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="processes")
    parser.add_argument("--out", type=Path, help="folder of the result files; by default that of the repository, or none "
                        "for a single case")  # fmt: skip
    args = parser.parse_args(argv)
    if unknown := set(args.names) - CAMPAIGNS.keys():
        parser.error(f"no campaign {min(unknown)!r}; there are {', '.join(CAMPAIGNS)}")
    out = args.out or (None if args.count == 1 else RESULTS / "reliability")
    failed = False
    for name in args.names or CAMPAIGNS:
        campaign, started = CAMPAIGNS[name], time.monotonic()
        count = args.count or campaign.count
        tally = run(
            campaign, seed=args.seed, count=count, seconds=args.minutes and 60 * args.minutes, workers=args.workers
        )
        record = {**report(campaign, tally, args.seed), "seconds": round(time.monotonic() - started)}
        failed |= bool(tally.failures)
        show(campaign, tally, record["seconds"])
        if out is not None:
            write_json(out / f"{name}.json", {**stamp("cpu"), **record})
    return int(failed)


def report(campaign: Campaign, tally: Tally, seed: int) -> dict[str, Any]:
    """The content of the result file."""
    return {
        "campaign": campaign.name,
        "unit": campaign.unit,
        "count": tally.outcomes[campaign.unit],
        "failed": len(tally.failures),
        "first_seed": seed,
        "cases": tally.cases,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "failures": tally.failures,
    }


def show(campaign: Campaign, tally: Tally, seconds: int) -> None:
    """Print the counts, and a command for each failure."""
    print(f"{campaign.name}: {tally.outcomes[campaign.unit]:,} {campaign.unit} in {seconds} s, ", end="")
    print(f"{len(tally.failures)} failures")
    for outcome, number in sorted(tally.outcomes.items()):
        print(f"  {outcome}: {number:,}")
    for failure in tally.failures:
        print(f"  FAILED {failure['what']}\n{failure['where']}    again: {failure['again']}")


if __name__ == "__main__":
    sys.exit(main())
