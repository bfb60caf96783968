"""Public checkpoints that cannot be used, or not as they are: each is refused with everything that is wrong."""

from __future__ import annotations

import math
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prolap.config.options import ConfigError
from prolap.data.features import make_features
from prolap.training.config import Config, load_config
from prolap.weights.checkpoint import CheckpointError
from prolap.weights.importers import Public, open_public
from tests.prolap.public_models import MICRO_MSCLAP, built, clap, imported, small_msclap


def test_formats_are_told_apart(tmp_path: Path) -> None:
    for name, keys in {
        "msclap-2023": {"model": {"audio_encoder.base.htsat.bn0.weight": torch.ones(64)}},
        "laion-clap": {"state_dict": {"module.audio_branch.bn0.weight": torch.ones(64)}},
        "hf-clap": {"audio_model.audio_encoder.batch_norm.weight": torch.ones(64)},
    }.items():
        torch.save(keys, tmp_path / f"{name}.pt")
        assert open_public(tmp_path / f"{name}.pt").format.name == name
        assert isinstance(open_public(tmp_path / f"{name}.pt", name), Public)


@pytest.fixture(scope="module")
def micro() -> Config:
    return load_config("prolap", overrides=MICRO_MSCLAP)


def test_all_that_does_not_fit_is_one_error(tmp_path: Path, micro: Config) -> None:
    def change(state: dict[str, Tensor]) -> None:
        del state["audio_encoder.base.htsat.norm.weight"]
        del state["audio_encoder.base.htsat.layers.1.blocks.0.attn.qkv.bias"]
        state["caption_encoder.base.wpe.weight"] = torch.zeros(4, 128)
        state["audio_encoder.base.htsat.surprise"] = torch.zeros(2)
        state["caption_encoder.base.h.0.extra.weight"] = torch.zeros(2)
        state["audio_encoder.base.htsat.layers.0.blocks.0.attn.qkv.bias"] = torch.zeros(97)

    with pytest.raises(CheckpointError, match="does not fit the model") as raised:
        imported(small_msclap(tmp_path / "a.pth", change), micro)
    for part in (
        "audio.base.audio_encoder.norm.weight is missing",
        "layers.1.blocks.0.attention.self.value.bias is missing",
        "text.base.wpe.weight has shape (4, 128), want (128, 128)",
        "audio_encoder.base.htsat.surprise is unknown",
        "text.base.h.0.extra.weight is not in the model",
        "attn.qkv.bias has shape (97,), which is not 3 equal parts",
    ):
        assert part in str(raised.value)


def test_a_model_that_does_not_fit_is_left_as_it_was(tmp_path: Path, micro: Config) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state["caption_encoder.base.ln_f.bias"][3] = float("nan")

    model = built(micro)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="not finite, for text.base.ln_f.bias"):
        open_public(small_msclap(tmp_path / "a.pth", change)).load(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_options_that_do_not_fit_are_one_error_that_names_the_preset(tmp_path: Path) -> None:
    found = open_public(small_msclap(tmp_path / "a.pth"))
    with pytest.raises(ConfigError) as raised:
        found.check(load_config("prolap+tiny"))
    for part in ("data.features=msclap (now prolap)", "data.sample_rate=44100 (now 16000)", "model.audio=htsat-micro"):
        assert part in str(raised.value)
    assert "model.dim=32 (now 128)" in str(raised.value)
    assert "`--preset prolap`" in str(raised.value)


def test_a_scale_at_or_beyond_our_bound_starts_inside_and_says_so(tmp_path: Path, micro: Config) -> None:
    for value in (math.log(100.0), math.log(333.0)):
        file = small_msclap(tmp_path / "a.pth", lambda state, v=value: state.update(logit_scale=torch.tensor(v)))
        model, report = imported(file, micro)
        assert 97 < model.scale.item() < 99
        assert "inside model.scale_min=None, model.scale_max=100" in report.notes[0]
        (slope,) = torch.autograd.grad(model.scale.log(), model.log_scale)
        assert 0.05 < slope.item() < 0.2


def test_the_mel_bank_of_the_file_is_compared_with_ours(tmp_path: Path, micro: Config) -> None:
    bank = make_features(micro.data).bank  # type: ignore[attr-defined]
    name = "audio_encoder.base.htsat.logmel_extractor.melW"
    file = small_msclap(tmp_path / "a.pth", lambda state: state.update({name: bank * (1 + 1e-6)}))
    assert "its mel bank is that of data.features=msclap within" in imported(file, micro)[1].notes[0]
    with pytest.raises(CheckpointError, match=r"mel bank of shape \(513, 32\), want \(513, 64\)"):
        imported(small_msclap(tmp_path / "b.pth", lambda state: state.update({name: bank[:, :32]})), micro)


def test_variants_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    ones = torch.ones(2, 2)
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "2022": ({"model": {"audio_encoder.base.conv_block1.conv1.weight": ones}}, "want the version 2023"),
        "fused": (
            {"state_dict": {"module.audio_branch.patch_embed.mel_conv2d.weight": ones}},
            "is a fused model, .* want an unfused one",
        ),
        "pann": ({"state_dict": {"audio_branch.conv_block1.weight": ones}}, "audio encoder is not HTS-AT"),
        "hf": ({"audio_model.audio_encoder.norm.weight": ones}, "no config.json"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=message):
            open_public(tmp_path / f"{name}.pt").check(load_config("prolap"))


def test_hugging_faces_configuration_is_compared(tmp_path: Path) -> None:
    clap(40, layer_norm_eps=1e-12).save_pretrained(tmp_path)
    found = open_public(tmp_path)
    needs = found.format.needs(found.tensors, found.config, "it")
    assert needs["model.audio"] == "htsat-micro"
    assert found.config is not None
    assert "1e-12" in found.format.notes(found.config)[0]
    found.config["audio_config"]["window_size"] = 7
    found.config["text_config"]["num_attention_heads"] = 8
    with pytest.raises(
        CheckpointError, match=r"window_size=7 \(ours 8\), text_config.num_attention_heads=8 \(ours 4\)"
    ):
        found.check(load_config("prolap+laion"))
    found.config["audio_config"]["enable_fusion"] = True
    with pytest.raises(CheckpointError, match="is a fused model"):
        found.check(load_config("prolap+laion"))


class Surprise:
    """What a checkpoint must not bring with it."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def test_what_is_not_tensors_is_refused_by_name_and_never_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = {"audio_branch.bn0.weight": torch.ones(64)}
    torch.save({"state_dict": weight, "extra": Surprise()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"could run code .*\(.*print.*\), which is refused"):
        open_public(tmp_path / "bad.pt")
    torch.save({"state_dict": weight, "table": np.ones(3)}, tmp_path / "array.pt")
    with pytest.raises(CheckpointError, match=r"numpy\S*_reconstruct"):
        open_public(tmp_path / "array.pt")
    assert "run" not in capsys.readouterr().out
    numbers = {"best": np.float64(0.5), "epoch": np.int64(3), "loss": np.float32(1)}
    torch.save({"state_dict": weight, **numbers}, tmp_path / "good.pt")  # as LAION's training did
    assert open_public(tmp_path / "good.pt").format.name == "laion-clap"
    torch.save({"state_dict": {**weight, "audio_branch.name": "tiny"}}, tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match="something else than tensors under audio_branch.name"):
        open_public(tmp_path / "text.pt")


def test_older_files_and_safetensors_are_read_and_broken_ones_explained(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weight = {"audio_branch.bn0.weight": torch.arange(64.0)}
    torch.save(weight, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(weight, tmp_path / "new.safetensors")
    for name in ("old.pt", "new.safetensors"):
        assert torch.equal(open_public(tmp_path / name).tensors["audio_branch.bn0.weight"], torch.arange(64.0))
    torch.save(weight, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-200])
    for name, content in {"empty.pt": b"", "text.pt": b"not a checkpoint", "bad.safetensors": b"12345678901"}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("cut.pt", "empty.pt", "text.pt", "bad.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read") as caught:
            open_public(tmp_path / name)
        assert "weights_only" not in str(caught.value), "nobody is told to read it with code"
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list, want tensors by name"):
        open_public(tmp_path / "list.pt")


def test_wrong_formats_and_places_are_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(
        CheckpointError, match=r"with weights, ...\) is not in the format hf-clap or laion-clap or msclap-2023"
    ):
        open_public(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="is not in the format laion-clap"):
        open_public(small_msclap(tmp_path / "a.pth"), "laion-clap")
    with pytest.raises(ConfigError, match="init_format: got 'clap', want auto, prolap, hf-clap"):
        open_public(tmp_path / "a.pth", "clap")
    with pytest.raises(CheckpointError, match="neither a checkpoint of prolap nor model.safetensors"):
        open_public(tmp_path)
    with pytest.raises(CheckpointError, match="is not there"):
        open_public(tmp_path / "nowhere.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", ["TorchScript", "tar"])
def test_no_file_is_answered_by_the_advice_to_run_its_code(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pt"
    if kind == "TorchScript":
        torch.jit.save(torch.jit.script(torch.nn.Identity()), path)
    else:
        with tarfile.open(path, "w") as archive:
            for name in ("pickle", "tensors", "storages", "sys_info"):
                (tmp_path / name).write_bytes(pickle.dumps({"a": 1}, protocol=2))
                archive.add(tmp_path / name, name)
    with pytest.raises(
        CheckpointError, match="it is damaged, or neither safetensors nor what torch.save wrote"
    ) as error:
        open_public(path)
    assert "weights_only" not in str(error.value)
