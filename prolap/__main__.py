"""`python -m prolap`."""

from __future__ import annotations

import sys

from prolap.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
