"""The log-mels of a split of scenes: one file, rendered once, read where it lies, and checked clip by clip."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from prolap.data import cache
from prolap.utils.progress import Progress, reporter

log = logging.getLogger(__name__)
CHUNK = 100  # clips a thread renders between two reports of progress
DTYPE = np.dtype("<f2")
Mels = NDArray[np.float16]


class RenderedMels:
    """Log-mels [clips, frames, mels] float16: the bytes of an .npy file, and behind them a checksum for each clip.

    path: of the file; it is rendered if it is missing or its size or header is another. shape: (clips, frames, mels).
    render: clip number -> log-mel, always the same.
    A clip is checked whenever it is read. A damaged one is rendered again, with a warning, and put back into the file.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        render: Callable[[int], Mels],
        name: str,
        progress: Progress | None = None,
    ) -> None:
        self.path, self.shape, self._render = path, shape, render
        header = io.BytesIO()
        described = {"descr": DTYPE.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)  # type: ignore[no-untyped-call]
        self._header, self._bytes = header.getvalue(), shape[1] * shape[2] * DTYPE.itemsize
        if not self._is_whole():
            with reporter(progress) as report:
                self._write(name, report)
        with path.open("rb") as file:
            file.seek(self._place(shape[0]))
            self._sums = [file.read(cache.DIGEST) for _ in range(shape[0])]
        self._repaired: dict[int, Mels] = {}

    def __getitem__(self, clip: int) -> Mels:
        """[frames, mels] of one clip."""
        return self.stack([clip])[0]

    def stack(self, clips: Iterable[int]) -> Mels:
        """[n, frames, mels] of several."""
        try:
            file = self.path.open("rb", buffering=0)
        except OSError:  # removed meanwhile
            return np.stack([self._checked(int(clip), None) for clip in clips])
        with file:
            return np.stack([self._checked(int(clip), file) for clip in clips])

    def _place(self, clip: int) -> int:
        """Of a clip's first byte in the file; of the checksums' for the clip behind the last."""
        return len(self._header) + clip * self._bytes

    def _is_whole(self) -> bool:
        """Whether the file is there and looks as it should, its content apart; a warning if it does not."""
        size = self._place(self.shape[0]) + self.shape[0] * cache.DIGEST
        try:
            with self.path.open("rb") as file:
                if file.read(len(self._header)) == self._header and self.path.stat().st_size == size:
                    return True
            reason = "it does not hold these clips"
        except FileNotFoundError:
            return False
        except OSError as error:
            reason = str(error)
        log.warning("the cached log-mels %s are damaged (%s) and are rendered again", self.path, reason)
        return False

    def _sum(self, clip: int, content: bytes) -> bytes:
        return cache.checksum(content, f"{self.path.stem}:{clip}")

    def _checked(self, clip: int, file: IO[bytes] | None) -> Mels:
        """A clip as its checksum says; as it is rendered again where the file has something else."""
        if not 0 <= clip < self.shape[0]:
            raise IndexError(f"clip {clip} of {self.shape[0]}")
        if clip in self._repaired:
            return self._repaired[clip]
        if file is not None:
            file.seek(self._place(clip))
            content = file.read(self._bytes)
            if self._sum(clip, content) == self._sums[clip]:
                return np.frombuffer(content, DTYPE).reshape(self.shape[1:])
        log.warning("clip %d of the cached log-mels %s is damaged and is rendered again", clip, self.path)
        with _one_thread():
            mel = self._repaired[clip] = self._render(clip)
        content = mel.astype(DTYPE).tobytes()
        with contextlib.suppress(OSError), self.path.open("r+b") as damaged:  # else others repair it for themselves
            damaged.seek(self._place(clip))
            damaged.write(content)
            damaged.seek(self._place(self.shape[0]) + clip * cache.DIGEST)
            damaged.write(self._sum(clip, content))
        return mel

    def _write(self, name: str, report: Progress) -> None:
        """Write all clips in order; threads share the work, each clip is computed by one of them alone."""
        clips = self.shape[0]
        starts, sums = range(0, clips, CHUNK), list[bytes]()
        self._render(0)  # makes the mel bank here and not in several threads at once
        with cache.written(self.path) as file, _one_thread() as threads, ThreadPoolExecutor(threads) as pool:
            file.write(self._header)
            for start, part in zip(starts, pool.map(self._chunk, starts), strict=True):
                for clip, mel in enumerate(part, start):
                    content = mel.astype(DTYPE).tobytes()
                    file.write(content)
                    sums.append(self._sum(clip, content))
                report(f"rendering {name}", min(start + CHUNK, clips), clips)
            file.write(b"".join(sums))

    def _chunk(self, start: int) -> list[Mels]:
        return [self._render(clip) for clip in range(start, min(start + CHUNK, self.shape[0]))]


@contextlib.contextmanager
def _one_thread() -> Iterator[int]:
    """Torch with one thread, since operations this small lose time when shared; yields how many it had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield max(1, threads)
    finally:
        torch.set_num_threads(threads)
