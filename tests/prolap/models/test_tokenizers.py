"""Tokenizers against transformers' own, their special tokens, and their way into a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prolap.config import BaseConfig, ModelConfig
from prolap.config.options import ConfigError
from prolap.models import tokenizers
from prolap.models.model import build_tokenizer
from prolap.models.tokenizers import GPT2Tokenizer, RobertaTokenizer, WordVocabulary
from tests.prolap.small_tokenizers import TEXTS, write_roberta

CAPTIONS = [*TEXTS, "", "!", "Wow! it's 3 o'clock", "  two  spaces ", "\u00e9t\u00e9, na\u00efve \u732b", "x" * 40]


def config(text: str, **changes: object) -> BaseConfig:
    return BaseConfig(model=ModelConfig(text=text, **changes))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roberta")
    write_roberta(folder)
    return folder


def test_gpt2_is_transformers_tokenizer_with_the_end_token_appended_as_ms_clap_does() -> None:
    from transformers import GPT2Tokenizer as Theirs

    folder = tokenizers._gpt2_folder()
    vocabulary = json.loads((folder / "encoder.json").read_text())
    merges = [tuple(line.split()) for line in (folder / "vocab.bpe").read_text().splitlines()[1:] if line]
    theirs, ours = Theirs(vocab=vocabulary, merges=merges), GPT2Tokenizer()
    assert len(ours) == len(theirs) == 50257
    assert (vocabulary["!"], vocabulary["<|endoftext|>"]) == (0, 50256)
    rows = ours(CAPTIONS).tolist()
    for text, row in zip(CAPTIONS, rows, strict=True):
        expected = theirs(text + " <|endoftext|>")["input_ids"]
        assert row == expected + [0] * (len(row) - len(expected))
        assert expected[-2:] == [220, 50256] or text.endswith(" ")


def test_roberta_is_transformers_tokenizer(roberta: Path) -> None:
    from transformers import RobertaTokenizer as Theirs

    merges = [tuple(line.split()) for line in (roberta / "merges.txt").read_text().splitlines()[1:] if line]
    theirs = Theirs(vocab=json.loads((roberta / "vocab.json").read_text()), merges=merges)
    expected = theirs(CAPTIONS, padding=True)["input_ids"]
    for path in (roberta, roberta / "fast", roberta / "fast" / "tokenizer.json"):
        ours = build_tokenizer(config("roberta", tokenizer=str(path)), [])
        assert len(ours) == len(theirs)
        assert ours(CAPTIONS).tolist() == expected


def test_long_captions_are_cut_and_keep_their_end(roberta: Path) -> None:
    long = "a dog barks " * 50
    gpt2 = GPT2Tokenizer(10)([long, "a"])
    assert gpt2.shape == (2, 10)
    assert gpt2[0, -1] == 50256
    assert gpt2[1].tolist() == [64, 220, 50256] + [0] * 7
    cut = build_tokenizer(config("roberta", tokenizer=str(roberta), max_tokens=10), [])([long, "a"])
    assert cut[:, 0].tolist() == [0, 0]
    assert cut[0, -1] == 2
    assert (cut[1, 3:] == 1).all()


def test_every_kind_comes_back_from_its_json(roberta: Path) -> None:
    names = {"tiny": "words", "gpt2-micro": "gpt2", "roberta": "roberta"}
    assert set(names.values()) == set(tokenizers.TOKENIZERS)
    for name, kind in names.items():
        made = build_tokenizer(config(name, tokenizer=str(roberta), max_tokens=12), iter(TEXTS))
        text = made.to_json()
        assert json.loads(text)["kind"] == kind
        again = tokenizers.from_json(text)
        assert type(again) is type(made)
        assert again.to_json() == text
        assert len(again) == len(made)
        assert torch.equal(again([*CAPTIONS, "a " * 40]), made([*CAPTIONS, "a " * 40]))
        assert made(["a " * 40]).shape == (1, 12)


def test_a_checkpoints_roberta_needs_no_file(roberta: Path, tmp_path: Path) -> None:
    moved = tmp_path / "tokenizer.json"
    moved.write_text((roberta / "fast" / "tokenizer.json").read_text())
    made = build_tokenizer(config("roberta", tokenizer=str(moved)), [])
    text = made.to_json()
    moved.unlink()
    assert torch.equal(tokenizers.from_json(text)(CAPTIONS), made(CAPTIONS))


def test_errors_name_the_option_and_what_is_wanted(roberta: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.tokenizer: got none for model.text=roberta, want a tokenizer.json"):
        build_tokenizer(config("roberta"), [])
    with pytest.raises(ConfigError, match="where neither is, want a tokenizer.json, or a folder"):
        build_tokenizer(config("roberta", tokenizer=str(tmp_path)), [])
    gpt2 = tmp_path / "tokenizer.json"
    gpt2.write_text(GPT2Tokenizer()._bpe.to_str())
    with pytest.raises(ConfigError, match="is not RoBERTa's tokenizer .definition: got a tokenizer with the special"):
        build_tokenizer(config("roberta", tokenizer=str(gpt2)), [])
    gpt2.write_text("{}")
    with pytest.raises(ConfigError, match="is not RoBERTa's tokenizer"):
        build_tokenizer(config("roberta", tokenizer=str(gpt2)), [])
    with pytest.raises(ValueError, match="model.text: got 'bert', want one of gpt2"):
        build_tokenizer(config("bert"), [])
    with pytest.raises(ValueError, match="kind 'bpe', want one of words, gpt2, roberta"):
        tokenizers.from_json('{"kind": "bpe"}')
    with pytest.raises(ValueError, match="not those the model was trained with"):
        tokenizers.from_json(json.dumps({"kind": "gpt2", "max_tokens": 77, "sha256": "0"}))
    for made in (GPT2Tokenizer(), RobertaTokenizer((roberta / "fast" / "tokenizer.json").read_text())):
        with pytest.raises(TypeError, match="texts: got str"):
            made("a dog")
        with pytest.raises(ValueError, match="texts: got an empty list"):
            made([])


def test_words_are_bounded_by_max_tokens_with_the_end_token() -> None:
    made = build_tokenizer(replace(config("tiny"), model=ModelConfig(max_tokens=4)), ["a b c d e f"])
    assert isinstance(made, WordVocabulary)
    assert made(["a b c d e f"]).shape == (1, 4)
