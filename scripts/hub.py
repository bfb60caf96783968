"""Writes `prolap_kernels` in the layout of Hugging Face's `kernels`: `python scripts/hub.py [FOLDER]`, build/hub by default.

The folder is a kernel repository: `kernels.get_local_kernel(FOLDER)` loads it, and uploaded to the hub `kernels.get_kernel` does.
The package is pure Python and Triton, so one variant, `torch-universal`, serves every torch and device.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "prolap_kernels"
KERNEL_VERSION = 1
"""Rises with every change of the public names that breaks callers; the hub keeps one branch a version."""

BUILD_TOML = f"""[general]
edition = 5
name = "{NAME.replace("_", "-")}"
version = {KERNEL_VERSION}
license = "Apache-2.0"
backends = ["cpu", "cuda", "rocm"]

[torch-noarch]
"""
CARD = """---
license: apache-2.0
library_name: kernels
---

# prolap_kernels

Fused losses for probabilistic embeddings: score x objective x pairs, and matched rows. Triton on GPUs, plain torch elsewhere.

```python
from kernels import get_local_kernel

losses = get_local_kernel("PATH OF THIS FOLDER")
loss = losses.ppcl_loss(losses.Gaussian(x, logvar_x), losses.Gaussian(y, logvar_y), scale, bias)
```
"""


def sources() -> dict[str, str]:
    """Relative path -> text of every file of the package."""
    paths = sorted(p for p in (ROOT / NAME).rglob("*") if p.suffix == ".py" or p.name == "py.typed")
    return {path.relative_to(ROOT / NAME).as_posix(): path.read_text() for path in paths}


def write(folder: Path) -> str:
    """Write the repository into `folder`, which is replaced; returns the kernel's id.

    Operators of torch are global: the id, a digest of the sources, is their namespace, so that two versions, and the installed
    package, can be loaded into one process.
    """
    files = sources()
    for path, text in files.items():
        if re.search(rf"^\s*(from|import) {NAME}\b", text, re.MULTILINE):
            raise ValueError(
                f"{NAME}/{path} imports {NAME} by name; a kernel of the hub may only use relative imports."
            )
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]
    kernel = f"{NAME}_universal_{digest}"
    if folder.exists():
        shutil.rmtree(folder)
    variant = folder / "build" / "torch-universal"
    for path, text in files.items():
        target = variant / NAME / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace(f'"{NAME}::', f'"{kernel}::'))
    metadata = {
        "id": kernel,
        "name": NAME.replace("_", "-"),
        "version": KERNEL_VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        # of the hub's list of backends the one that the fused kernels are for; a universal variant loads on all
        "backend": {"type": "cuda"},
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    (folder / "build.toml").write_text(BUILD_TOML)
    (folder / "README.md").write_text(CARD)
    shutil.copy(ROOT / "LICENSE", folder)
    return kernel


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "hub"
    print(f"{write(FOLDER)} in {FOLDER}")
