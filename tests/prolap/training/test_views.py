from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prolap.data.batch import Batch
from prolap.training.views import PairIds, pair_ids


def batch_of(index: list[int], chain: list[list[int]], level: list[int]) -> Batch:
    """Only the identities; the rest is empty."""
    empty = torch.zeros(len(index), 1)
    ids = (torch.tensor(value, dtype=torch.int64) for value in (index, chain, level))
    return Batch(empty, empty, empty, *ids)


def matrix(ids: PairIds, clips: Tensor | None = None, captions: Tensor | None = None) -> Tensor:
    """[clips, captions]: 1 positive, -1 negative, 0 left out; every caption must occur in exactly one block."""
    clips = torch.arange(len(ids.clip)) if clips is None else clips
    captions = torch.arange(len(ids.caption)) if captions is None else captions
    signs = torch.full((len(clips), len(captions)), 9)
    for at, clip_id, caption_id, _ in ids.blocks(clips, captions):
        assert (signs[:, at] == 9).all()
        equal = torch.where(clip_id[:, None] == caption_id[None, :], 1, -1)
        counted = (clip_id >= 0)[:, None] & (caption_id >= 0)[None, :]
        signs[:, at] = torch.where(counted, equal, 0)
    assert (signs != 9).all()
    return signs


BATCH = batch_of(
    index=[7, 3, 9, 7, 1, 2],
    chain=[[0, 0, 5, 8], [0, 1, 2, 3], [0, 0, 5, 9], [0, 0, 5, 8], [-1, -1, -1, -1], [1, 0, -1, 4]],
    level=[0, 1, 2, 3, -1, 2],
)


def brute_force(batch: Batch) -> Tensor:
    """Positive where the clip's chain holds the caption's node, or where both are of one clip."""
    rows = range(len(batch))
    signs = torch.full((len(batch), len(batch)), -1)
    for clip in rows:
        for caption in rows:
            level = int(batch.level[caption])
            node = int(batch.chain[caption, level]) if level >= 0 else -1
            same_clip = batch.index[clip] == batch.index[caption]
            if same_clip or (node >= 0 and int(batch.chain[clip, level]) == node):
                signs[clip, caption] = 1
    return signs


def test_keep_counts_only_the_clip_itself() -> None:
    expected = torch.where(BATCH.index[:, None] == BATCH.index[None, :], 1, -1)
    assert torch.equal(matrix(pair_ids(BATCH, "keep")), expected)


def test_positive_is_every_clip_whose_chain_holds_the_node() -> None:
    signs = matrix(pair_ids(BATCH, "positive"))
    assert torch.equal(signs, brute_force(BATCH))
    assert signs[:, 0].tolist() == [1, 1, 1, 1, -1, -1]  # node 0 of level 0; node 0 of level 1 is another one
    assert signs[:, 4].tolist() == [-1, -1, -1, -1, 1, -1]  # unknown: its own clip alone


def test_positive_agrees_with_brute_force_on_random_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        index = torch.randperm(30, generator=generator)[:12]
        index = torch.cat([index, index[:2]])
        chain = torch.randint(-1, 3, (30, 4), generator=generator)[index]
        level = torch.randint(-1, 4, (14,), generator=generator)
        batch = batch_of(index.tolist(), chain.tolist(), level.tolist())
        assert torch.equal(matrix(pair_ids(batch, "positive")), brute_force(batch))


def test_ignore_leaves_repetitions_of_a_node_out() -> None:
    chain = [[0, 1, 2, 3], [0, 1, 4, 5], [0, 6, 7, 8], [-1, -1, -1, -1], [-1, -1, -1, -1]]
    batch = batch_of([10, 11, 12, 13, 14], chain, [1, 1, 0, -1, -1])
    ids = pair_ids(batch, "ignore")
    assert ids.caption.tolist() == [10, -1, 12, 13, 14]
    signs = matrix(ids)
    assert (signs[1] == 0).all()
    assert (signs[:, 1] == 0).all()
    assert signs[0, 0] == 1
    assert signs[0, 2] == -1
    assert signs[3, 4] == -1
    assert ids.counted(torch.arange(5)).item() == 4


def test_one_column_joins_captions_of_one_node() -> None:
    ids = pair_ids(BATCH, "positive", one_column=True)
    assert ids.clip.shape[1] == 1
    assert len(set(ids.caption.tolist())) == len(BATCH)  # node 5 of level 2 once, node 0 of levels 0, 1 apart
    twice = batch_of([1, 2, 3], [[0, 1, 2, 3], [0, 1, 4, 5], [0, 1, 4, 5]], [1, 1, 0])
    assert matrix(pair_ids(twice, "positive", one_column=True)).tolist() == [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]


@pytest.mark.parametrize("shared", ["keep", "ignore", "positive"])
@pytest.mark.parametrize("one_column", [False, True])
def test_nodes_may_be_as_large_as_int64_holds(shared: str, one_column: bool) -> None:
    large = torch.where(BATCH.chain >= 0, 2**63 - 1 - BATCH.chain, -1)
    expected = matrix(pair_ids(BATCH, shared, one_column))
    assert torch.equal(matrix(pair_ids(replace(BATCH, chain=large), shared, one_column)), expected)


def test_rows_can_be_repeated() -> None:
    clips, captions = torch.tensor([0, 4, 0]), torch.tensor([5, 2, 2, 0])
    for shared in ("keep", "ignore", "positive"):
        ids = pair_ids(BATCH, shared)
        assert torch.equal(matrix(ids, clips, captions), matrix(ids)[clips][:, captions])


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="shared_captions: got 'drop'"):
        pair_ids(BATCH, "drop")  # type: ignore[arg-type]
