"""The published architecture in small through training, checkpoints and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prolap.config.loading import to_dict
from prolap.data import open_data
from prolap.evaluation.embeddings import embed_masked_texts, embed_sounds
from prolap.training.train import train
from prolap.weights.checkpoint import load_model
from tests.prolap.small_tokenizers import write_roberta
from tests.prolap.tiny import tiny_config
from tests.tolerances import assert_same, likely

SHORT = {"steps": 3, "eval_every": 3, "checkpoint_every": 3, "optim__accumulate": 1, "optim__lr": 1e-3}


def micro(data: Path, run: Path, **changes: Any) -> Any:
    return tiny_config(data, run, **({"preset": "prolap-v1+micro", **SHORT} | changes))


def test_trains_saves_and_embeds_the_same_after_loading(data: Path, tmp_path: Path) -> None:
    config = micro(data, tmp_path / "run", model__checkpointing=True)
    result = train(config, progress=False)
    assert (result.step, result.stopped) == (3, "finished")
    model, sounds = load_model(tmp_path / "run", "last"), open_data(config, "test")
    assert to_dict(model.config).items() <= to_dict(config).items()
    with torch.no_grad():
        audio, frames = sounds.features_batch(range(4))
        direct = model.encode_audio(audio, frames)
    embedded = embed_sounds([model], sounds, config.mask)[0]
    # independent roundings in float32, of windows of 1024 values through a log-mel and four stages
    assert_same(embedded.plain.mean[:4], direct.mean, terms=likely(4 * 1024))
    paths = [data / f"{number}.wav" for number in range(4)]
    assert_same(model.embed_audio(paths).mean, direct.mean, terms=likely(4 * 1024))
    assert len(embedded.masked) == config.mask.audio_copies
    texts = embed_masked_texts(model, ["tone 1 is long!", "a low tone"], config.mask)
    assert (texts.share > 0).any()
    assert texts.plain.mean.isfinite().all()


def test_a_resumed_run_ends_with_the_same_weights(data: Path, tmp_path: Path) -> None:
    options = {"steps": 4, "checkpoint_every": 2, "eval_every": 4, "model__dropout": 0.2}
    train(micro(data, tmp_path / "whole", **options), progress=False)
    with pytest.raises(KeyboardInterrupt):
        stopped(micro(data, tmp_path / "parts", **options))
    result = train(micro(data, tmp_path / "parts", **options), resume=True, progress=False)
    assert result.step == 4
    whole, parts = (load_model(tmp_path / name, "last").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def stopped(config: Any) -> None:
    """Train until after the checkpoint of step 2 and break off there."""
    from prolap.training.train import Trainer

    update = Trainer.update

    def breaking(self: Trainer, stream: Any) -> Any:
        if self.step == 3:
            raise KeyboardInterrupt
        return update(self, stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", breaking)
        train(config, progress=False)


def test_robertas_checkpoint_holds_its_tokenizer(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    folder.mkdir()
    write_roberta(folder)
    changes = {"model__text": "roberta-micro", "model__mean_head": "clap", "model__tokenizer": str(folder)}
    config = micro(data, tmp_path / "run", steps=1, mask__mode="substitute", **changes)
    train(config, progress=False)
    for path in folder.rglob("*.*"):
        path.unlink()
    model = load_model(tmp_path / "run", "last")
    assert len(model.vocabulary) == model.text.base.config.vocab_size
    z = model.embed_text(["a low tone", "a high tone"])
    assert z.mean.shape == (2, config.model.dim)
