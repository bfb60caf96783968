"""A RoBERTa tokenizer of a few hundred entries, in the layout of the public files."""

from __future__ import annotations

import json
from pathlib import Path

TEXTS = [
    "a dog barks while rain falls",
    "a man speaks and a bell rings",
    "birds sing!",
    "water runs, then a door shuts",
]


def write_roberta(folder: Path) -> None:
    """vocab.json and merges.txt, and tokenizer.json in the folder `fast` beside them."""
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(TEXTS, vocab_size=330, min_frequency=1, special_tokens=special, show_progress=False)
    bpe.save_model(str(folder))
    (folder / "fast").mkdir()
    bpe.save(str(folder / "fast" / "tokenizer.json"))
    assert json.loads((folder / "vocab.json").read_text())["</s>"] == 2
