"""GPT-2 and RoBERTa around transformers' models: where they are read, what masks hide, what padding does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prolap.config import BaseConfig, ModelConfig
from prolap.models.encoders import TEXT
from prolap.models.model import build_tokenizer
from prolap.models.tokenizers import Tokenizer
from tests.prolap.small_tokenizers import write_roberta
from tests.tolerances import assert_same, assert_same_gradients

NAMES = ("gpt2-micro", "roberta-micro")
CLOSE = {"terms": 4096}
"""Roundings through two layers of width 64 and below over some dozen words, in float64."""
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("roberta")
    write_roberta(folder)
    model = ModelConfig(tokenizer=str(folder))
    return {name: build_tokenizer(BaseConfig(model=replace(model, text=name)), []) for name in NAMES}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def encoder(name: str, vocabularies: dict[str, Tokenizer], **changes: Any) -> Any:
    torch.manual_seed(0)
    return TEXT[name](BaseConfig(model=ModelConfig(text=name, **changes)), vocabularies[name]).double().eval()


def without(tokens: Tensor, masked: Tensor, pad: int) -> Tensor:
    rows = [row[~hide] for row, hide in zip(tokens, masked, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)


@torch.no_grad()
def test_gpt2_is_read_at_the_end_token(vocabularies: dict[str, Tokenizer]) -> None:
    model, tokens = encoder("gpt2-micro", vocabularies), vocabularies["gpt2-micro"](["a dog", "hey! stop!! now", ""])
    states = model.base(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    ends = [row.index(50256) for row in tokens.tolist()]
    assert_same(model(tokens), states[[0, 1, 2], ends], **CLOSE)


@torch.no_grad()
def test_gpt2_with_ms_claps_pooling(vocabularies: dict[str, Tokenizer]) -> None:
    """At the number of ids that are not 0, less one: another place only where the caption has a "!" (id 0) of its own."""
    captions = ["a dog barks", "hey! stop! now", "rain falls"]
    tokens = vocabularies["gpt2-micro"](captions)
    ours = encoder("gpt2-micro", vocabularies, text_pool="end")
    quirk = encoder("gpt2-micro", vocabularies, text_pool="count")
    padded = torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))
    attention = torch.ones_like(padded)
    for row, caption in enumerate(tokens.tolist()):
        attention[row, caption.index(50256) + 1 :] = 0
    states = quirk.base(input_ids=padded, attention_mask=attention)[0]
    public = states[torch.arange(3), torch.ne(padded, 0).sum(-1) - 1]
    assert_same(quirk(tokens), public, **CLOSE)
    assert_same(ours(tokens)[[0, 2]], public[[0, 2]], **CLOSE)
    assert (ours(tokens)[1] - public[1]).abs().max() > 1e-2


@torch.no_grad()
def test_roberta_is_its_poolers_output(vocabularies: dict[str, Tokenizer]) -> None:
    model, tokens = encoder("roberta-micro", vocabularies), vocabularies["roberta-micro"](["a dog barks", "", "rain"])
    public = model.base(input_ids=tokens, attention_mask=(tokens != 1).long()).pooler_output
    assert_same(model(tokens), public, **CLOSE)


@torch.no_grad()
def test_the_grid_spares_special_tokens_and_padding(name: str, vocabularies: dict[str, Tokenizer]) -> None:
    model, tokens = encoder(name, vocabularies), vocabularies[name](["a dog! barks!", ""])
    grid = model.grid(tokens)
    ends = (tokens == (50256 if "gpt2" in name else 2)).int().argmax(dim=1)
    # the caption alone: neither <s>, nor the space that MS-CLAP's end token brings along
    assert grid.sum(dim=1).tolist() == (ends - 1).tolist()
    assert not grid[torch.arange(tokens.shape[1]) >= ends[:, None]].any()
    assert not grid[1].any()
    empty = model(vocabularies[name]([""]))
    everything = torch.ones_like(grid)
    assert_same(model(tokens, None, everything)[1:], empty, **CLOSE)  # "" has nothing to hide
    assert_same(model(tokens, None, everything, "delete"), empty.expand(2, -1), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["end", "count"])
def test_masked_words_never_leak(name: str, pool: str, vocabularies: dict[str, Tokenizer]) -> None:
    model = encoder(name, vocabularies, text_pool=pool)
    tokens = vocabularies[name](["a man speaks and a bell rings", "birds sing!"])
    grid = model.grid(tokens)
    masked = (torch.rand(grid.shape, generator=torch.Generator().manual_seed(3)) < 0.5) & grid
    assert masked.any(dim=1).all()
    other = torch.where(
        masked, torch.tensor(0 if "gpt2" in name else 40), tokens
    )  # GPT-2's "!", which is also its padding
    assert (other != tokens).any()
    for mode in ("substitute", "delete"):
        out = model(tokens, None, masked, mode)
        assert torch.equal(model(other, None, masked, mode), out)
        assert (out - model(tokens)).abs().amax(dim=1).min() > 1e-3


@torch.no_grad()
def test_deleting_words_is_the_caption_without_them(name: str, vocabularies: dict[str, Tokenizer]) -> None:
    model, tokens = encoder(name, vocabularies), vocabularies[name](["a man speaks and", "a bell!"])
    masked = torch.zeros_like(tokens, dtype=torch.bool)
    masked[0, 1:3] = masked[1, 1] = True
    short = without(tokens, masked, 0 if "gpt2" in name else 1)
    assert_same(model(tokens, None, masked, "delete"), model(short), **CLOSE)
    assert (model(tokens, None, masked) - model(short)).abs().max() > 1e-3


@torch.no_grad()
def test_a_caption_does_not_depend_on_the_batch(name: str, vocabularies: dict[str, Tokenizer]) -> None:
    model, tokenize = encoder(name, vocabularies), vocabularies[name]
    captions = ["a man speaks and a bell rings", "rain", "", "birds sing!"]
    together = model(tokenize(captions))
    alone = torch.cat([model(tokenize([caption])) for caption in captions])
    assert_same(together, alone, **CLOSE)
    assert torch.pdist(together).min() > 1e-2
    one, two = model(tokenize(["a dog and rain", "rain and a dog"]))
    assert (one - two).abs().max() > 1e-3  # order matters
    nothing = torch.zeros_like(tokenize(captions), dtype=torch.bool)
    for mode in ("substitute", "delete"):
        assert_same(model(tokenize(captions), None, nothing, mode), together, **CLOSE)


def test_recomputing_activations_gives_the_same_gradients(name: str, vocabularies: dict[str, Tokenizer]) -> None:
    tokens, results = vocabularies[name](["a man speaks and a bell rings", "birds sing!"]), []
    for again in (False, True):
        model, calls = encoder(name, vocabularies, dropout=0.2, checkpointing=again).train(), []
        blocks = model.base.h if "gpt2" in name else model.base.encoder.layer
        inner = blocks[0].mlp if "gpt2" in name else blocks[0].intermediate
        inner.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(5)
        masked = model.grid(tokens)
        masked[:, 2] = False
        model(tokens, None, masked).square().sum().backward()
        assert len(calls) == 1 + again
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert len(results[0]) == len(results[1]) > 20
    assert_same_gradients(*results, terms=4096)


def test_published_sizes(vocabularies: dict[str, Tokenizer]) -> None:
    class Public:
        def __len__(self) -> int:
            return 50265

    with torch.device("meta"):
        gpt2 = TEXT["gpt2"](BaseConfig(), vocabularies["gpt2-micro"])
        roberta = TEXT["roberta"](BaseConfig(), Public())
    assert sum(p.numel() for p in gpt2.base.parameters()) == 124_439_808
    assert sum(p.numel() for p in roberta.base.parameters()) == 124_645_632
    assert gpt2.width == roberta.width == 768


def test_too_long_captions_are_refused(name: str, vocabularies: dict[str, Tokenizer]) -> None:
    with pytest.raises(ValueError, match="model.max_tokens: got 500, want at most 128"):
        encoder(name, vocabularies, max_tokens=500)
