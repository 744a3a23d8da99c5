"""Checkpoints that are pruned from folder to folder: the folder is that of pruning in memory."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import graphprune
from graphprune.checkpoints import fitting, residence
from graphprune.checkpoints.journal import Journal
from graphprune.checkpoints.residence import MappedFiles
from graphprune.errors import InputError, LoadError, SaveError
from graphprune.utils.byte_sizes import read_size
from graphprune.utils.shard_index import INDEX
from graphprune.utils.tensor_files import StoredTensor, TensorFiles, stored_tensors

SHARD = "10KB"


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def llama(tied: bool = True) -> nn.Module:
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).bfloat16()


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64))


def t5() -> nn.Module:
    config = T5Config(d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8, vocab_size=64)
    return T5ForConditionalGeneration(config)


def checkpoint(model: Any, folder: Path) -> Path:
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(folder, max_shard_size=SHARD)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return checkpoint(llama(), tmp_path / "source")


def in_memory(source: Path, target: Path, **asked: Any) -> None:
    kind = getattr(transformers, json.loads((source / "config.json").read_text())["architectures"][0])
    slim = graphprune.prune_model(kind.from_pretrained(source), **asked)
    graphprune.save_pretrained(slim, target, processing=source, max_shard_size=SHARD)


def assert_same_folders(expected: Path, found: Path) -> None:
    one, other = TensorFiles(expected), TensorFiles(found)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)
    assert {path.name for path in expected.iterdir()} == {path.name for path in found.iterdir()}
    for path in expected.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("checksums.json", INDEX):
            assert path.read_text() == (found / path.name).read_text(), path.name
    sums = json.loads((found / "checksums.json").read_text())
    assert sums.keys() == {path.name for path in found.iterdir()} - {"checksums.json"}


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "layers that differ": (llama, {"params": 0.6}),
    "all layers alike": (lambda: llama(tied=False), {"ratio": 0.5}),
    "narrower heads": (llama, {"head_width": 0.5}),
    "fewer layers": (llama, {"depth": 0.5}),
    "another criterion": (gpt2, {"ratio": 0.5, "importance": "lamp", "allocation": "global"}),
    "two stacks": (t5, {"params": 0.6}),
}


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
@pytest.mark.parametrize("case", CASES)
def test_the_folder_is_that_of_pruning_in_memory(case: str, tmp_path: Path) -> None:
    make, asked = CASES[case]
    source = checkpoint(make(), tmp_path / "source")
    in_memory(source, tmp_path / "expected", **asked)
    plan = graphprune.prune_checkpoint(source, tmp_path / "found", max_shard_size=SHARD, **asked)
    assert_same_folders(tmp_path / "expected", tmp_path / "found")
    assert plan.entries[1] < plan.entries[0]
    assert not list(tmp_path.glob(".*"))


def test_transformers_loads_it(source: Path, tmp_path: Path) -> None:
    graphprune.prune_checkpoint(source, tmp_path / "slim", params=0.6)
    auto = transformers.AutoModelForCausalLM
    slim = auto.from_pretrained(tmp_path / "slim", trust_remote_code=True)
    assert slim.lm_head.weight is slim.model.embed_tokens.weight
    assert slim.generation_config.max_new_tokens == 7
    with torch.no_grad():
        assert slim(input_ids=torch.arange(8).view(1, 8)).logits.isfinite().all()


def batches(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(64, (1, 12), generator=generator) for _ in range(count)]


@pytest.mark.parametrize("asked", [{"params": 0.6, "importance": "wanda"}], ids=str)
def test_calibration_repairs_as_in_memory(asked: dict[str, Any], source: Path, tmp_path: Path) -> None:
    in_memory(source, tmp_path / "expected", calibration=batches(), **asked)
    graphprune.prune_checkpoint(
        source, tmp_path / "found", calibration=batches(), max_shard_size=SHARD, mapped="1KB", memory="1GB", **asked
    )
    one, other = TensorFiles(tmp_path / "expected"), TensorFiles(tmp_path / "found")
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0.02, atol=1e-3)
    graphprune.prune_checkpoint(source, tmp_path / "cut", calibration=batches(), repair=False, **asked)
    assert any(not torch.equal(TensorFiles(tmp_path / "cut")[name], other[name]) for name in other)


# ---------------------------------------------------------------- runs that end early


class Stop(BaseException):
    """Ends a run as a signal would, except that contexts are left."""


def stopping(after: int) -> Callable[[graphprune.Progress], None]:
    left = [after]

    def show(_: graphprune.Progress) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return show


@pytest.mark.parametrize("after", [0, 19, 20, 30, 39])
def test_a_run_that_ended_early_goes_on(after: int, source: Path, tmp_path: Path) -> None:
    asked: Any = {"params": 0.6, "max_shard_size": SHARD}
    graphprune.prune_checkpoint(source, tmp_path / "expected", **asked)
    calls: list[graphprune.Progress] = []
    with pytest.raises(Stop):
        graphprune.prune_checkpoint(source, tmp_path / "found", progress=stopping(after), **asked)
    assert not (tmp_path / "found").exists()
    graphprune.prune_checkpoint(source, tmp_path / "found", progress=calls.append, **asked)
    assert (calls[0].stage == "weights") == (after >= 20)  # scores are worked out once
    assert files_of(tmp_path / "found") == files_of(tmp_path / "expected")
    assert not list(tmp_path.glob(".*"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_that_was_damaged_meanwhile_is_written_again(source: Path, tmp_path: Path) -> None:
    asked: Any = {"params": 0.6, "max_shard_size": SHARD}
    graphprune.prune_checkpoint(source, tmp_path / "expected", **asked)
    with pytest.raises(Stop):
        graphprune.prune_checkpoint(source, tmp_path / "found", progress=stopping(36), **asked)
    (first, *_) = sorted((tmp_path / ".found.pruning/folder").glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    graphprune.prune_checkpoint(source, tmp_path / "found", **asked)
    assert files_of(tmp_path / "found") == files_of(tmp_path / "expected")


@pytest.mark.parametrize("name", ["plan.json", "fitted.safetensors"])
def test_what_cannot_be_read_of_an_earlier_run_is_told_of(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Any = {"ratio": 0.5, "calibration": batches()}

    def stop(progress: graphprune.Progress) -> None:
        if progress.stage == "weights":
            raise Stop

    with pytest.raises(Stop):
        graphprune.prune_checkpoint(source, tmp_path / "found", progress=stop, **asked)
    opened = Path.open

    def refusing(path: Path, *given: Any, **more: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *given, **more)

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(LoadError, match=f"{name} of an earlier run cannot be read"):
        graphprune.prune_checkpoint(source, tmp_path / "found", **asked)


def test_fitted_weights_are_kept(source: Path, tmp_path: Path) -> None:
    asked: Any = {"ratio": 0.5, "calibration": batches()}
    graphprune.prune_checkpoint(source, tmp_path / "expected", **asked)
    stages: list[str] = []

    def show(progress: graphprune.Progress) -> None:
        stages.append(progress.stage)
        if progress.stage == "weights":
            raise Stop

    with pytest.raises(Stop):
        graphprune.prune_checkpoint(source, tmp_path / "found", progress=show, **asked)
    assert set(stages) == {"scores", "slices", "repair", "weights"}
    calls: list[graphprune.Progress] = []
    graphprune.prune_checkpoint(source, tmp_path / "found", progress=calls.append, **asked)
    assert {one.stage for one in calls} == {"weights"}
    assert files_of(tmp_path / "found") == files_of(tmp_path / "expected")


def test_a_run_goes_on_only_with_what_it_was_asked(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "found"
    with pytest.raises(Stop):
        graphprune.prune_checkpoint(source, target, 0.5, progress=stopping(25))
    with pytest.raises(
        InputError, match=r"ratio: an earlier run for .*found was asked with 0.5, and this one with 0.4"
    ):
        graphprune.prune_checkpoint(source, target, 0.4)
    with pytest.raises(InputError, match=r"calibration: an earlier run .* asked with null"):
        graphprune.prune_checkpoint(source, target, 0.5, calibration=batches())
    (source / "config.json").touch()
    with pytest.raises(InputError, match="files of the source: an earlier run"):
        graphprune.prune_checkpoint(source, target, 0.5)
    graphprune.prune_checkpoint(source, target, 0.4, resume=False)
    assert [path.name for path in tmp_path.glob("*found*")] == ["found"]


def test_progress_tells_the_time_left(source: Path, tmp_path: Path) -> None:
    calls: list[graphprune.Progress] = []
    graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5, progress=calls.append)
    assert [one.stage for one in calls] == sorted((one.stage for one in calls), key=["scores", "weights"].index)
    assert calls[-1].done == calls[-1].total
    assert calls[-1].seconds_left == 0
    assert all(one.seconds_left is not None and one.seconds_left >= 0 for one in calls if one.done)
    assert graphprune.Progress("scores", 0, 5, 1.0).seconds_left is None


# ---------------------------------------------------------------- what is refused


def test_wrong_arguments_are_refused(source: Path, tmp_path: Path) -> None:
    prune: Any = graphprune.prune_checkpoint
    with pytest.raises(InputError, match=r"target: .* is the source, or one is in the other"):
        prune(source, source, 0.5)
    with pytest.raises(InputError, match=r"target: .* is the source, or one is in the other"):
        prune(source, source / "slim", 0.5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(InputError, match=r"target: .*full exists"):
        prune(source, tmp_path / "full", 0.5)
    with pytest.raises(InputError, match=r"source: .*nowhere is no folder"):
        prune(tmp_path / "nowhere", tmp_path / "slim", 0.5)
    with pytest.raises(InputError, match=r"source: .*full has no config.json"):
        prune(tmp_path / "full", tmp_path / "slim", 0.5)
    with pytest.raises(InputError, match="weights: are those in source"):
        prune(source, tmp_path / "slim", 0.5, weights={})
    with pytest.raises(InputError, match="resume: must be True or False"):
        prune(source, tmp_path / "slim", 0.5, resume="no")
    with pytest.raises(InputError, match="max_shard_size: must be a number of bytes"):
        prune(source, tmp_path / "slim", 0.5, max_shard_size="many")
    assert not (tmp_path / "slim").exists()


def change_config(source: Path, **fields: Any) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | fields))


def change_tensors(source: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = sorted(source.glob("*.safetensors"))[0]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    names = {name: path.name for path in source.glob("*.safetensors") for name in stored_tensors(path)}
    (source / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


WRONG: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "class": (
        lambda source: change_config(source, architectures=["MyModel"]),
        InputError,
        r"names no class of Transformers among its architectures \['MyModel'\]",
    ),
    "code": (
        lambda source: change_config(
            source, model_type="mine", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.MyModel"}
        ),
        InputError,
        r"(?s)classes of Python files that come with the checkpoint.*trust_remote_code=True.*graphprune\.save",
    ),
    "code of the model": (
        lambda source: change_config(source, architectures=["M"], auto_map={"AutoModelForCausalLM": "mine.MyModel"}),
        InputError,
        "names classes of Python files that come with the checkpoint",
    ),
    "kind": (
        lambda source: change_config(source, model_type="mine"),
        InputError,
        "is no configuration of Transformers",
    ),
    "quantized": (
        lambda source: change_config(source, quantization_config={"quant_method": "gptq", "bits": 4}),
        InputError,
        "is quantized",
    ),
    "missing": (
        lambda source: change_tensors(source, lambda tensors: tensors.pop("model.embed_tokens.weight")),
        LoadError,
        r"has no tensor 'model.embed_tokens.weight' \(2 such names\), which the model has",
    ),
    "unexpected": (
        lambda source: change_tensors(source, lambda tensors: tensors.update(more=torch.ones(2))),
        LoadError,
        r"has a tensor 'more' \(1 such names\), which LlamaForCausalLM does not have",
    ),
    "shape": (
        lambda source: change_config(source, vocab_size=65),
        LoadError,
        r"model.embed_tokens.weight has shape \[64, 32\] in .*, and \[65, 32\] by config.json",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_folders_are_refused(case: str, source: Path, tmp_path: Path) -> None:
    change, kind, message = WRONG[case]
    change(source)
    with pytest.raises(kind, match=message):
        graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5)
    assert not (tmp_path / "slim").exists()


def test_a_base_model_alone_is_a_checkpoint_too(source: Path, tmp_path: Path) -> None:
    for path in source.glob("*.safetensors"):
        save_file({name.removeprefix("model."): one for name, one in load_file(path).items()}, path)
    index = json.loads((source / INDEX).read_text())
    names = {name.removeprefix("model."): file for name, file in index["weight_map"].items()}
    (source / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    in_memory(source, tmp_path / "expected", ratio=0.5)
    graphprune.prune_checkpoint(source, tmp_path / "found", 0.5, max_shard_size=SHARD)
    assert_same_folders(tmp_path / "expected", tmp_path / "found")


def test_a_full_disk_keeps_what_is_finished(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(SaveError, match=r"target: .* bytes are to be written to .*, and 1,000 are free"):
        graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5)
    assert not (tmp_path / "slim").exists()
    monkeypatch.undo()
    graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5)
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_is_full_in_the_middle_of_a_file_is_told_of(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def fail(handle: int, data: Any) -> int:
        if isinstance(data, memoryview):  # a part of such a file
            raise OSError(28, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(SaveError, match=r"target: .* could not be written: .*No space left on device"):
        graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5)
    monkeypatch.undo()
    assert not (tmp_path / "slim").exists()
    graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5)
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_becomes_full_is_told_of(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune.checkpoints import streamed_files

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streamed_files, "to_disk", fail)
    with pytest.raises(SaveError, match=r"target: .* could not be written: .*No space left on device"):
        graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5)
    assert not list((tmp_path / ".slim.pruning/folder").glob("*.safetensors"))


@pytest.mark.parametrize(
    "name", ["journal.json", "plan.json", "config.json", INDEX, "tokenizer.json", "checksums.json", "lock"]
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_small_file_that_cannot_be_written_is_told_of(
    name: str, number: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = io.open

    def refuse(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode[0] in "wx" and name in Path(file).name:
            raise OSError(number, os.strerror(number), str(file))
        return plain(file, mode, *args, **kwargs)

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", refuse)
    with pytest.raises(SaveError, match=rf"target: .* could not be written: {os.strerror(number)}") as raised:
        graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5, max_shard_size=SHARD)
    assert name in raised.value.found
    assert raised.value.do.startswith("free some space" if number == errno.ENOSPC else "let this process write there")
    assert not (tmp_path / "slim").exists()
    monkeypatch.undo()
    graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5, max_shard_size=SHARD)
    assert not list(tmp_path.glob(".*"))


def test_fitted_weights_that_may_not_be_written_to_again_are_told_of(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration, mapping = [torch.randint(64, (2, 8))], MappedFiles.map

    def refuse(self: MappedFiles, stored: StoredTensor, shared: bool = False) -> Tensor:
        if shared:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(stored.path))
        return mapping(self, stored)

    monkeypatch.setattr(MappedFiles, "map", refuse)
    with pytest.raises(SaveError, match=r"target: .*fitted.safetensors could not be written: Read-only file system"):
        graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5, calibration=calibration)
    monkeypatch.undo()
    graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5, calibration=calibration)
    assert not list(tmp_path.glob(".*"))


def test_copies_of_repaired_weights_that_cannot_be_written_are_told_of(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = [torch.randint(64, (2, 8))]

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fitting, "write_tensors", refuse)
    with pytest.raises(SaveError, match=r"target: .* could not be written: No space left on device"):
        graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5, calibration=calibration)
    monkeypatch.undo()
    graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5, calibration=calibration)
    assert not list(tmp_path.glob(".*"))


def test_a_target_below_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"target: nothing can be written into .*file"):
        graphprune.prune_checkpoint(source, tmp_path / "file/slim", 0.5)


def test_one_process_works_on_a_target(source: Path, tmp_path: Path) -> None:
    def show(_: graphprune.Progress) -> None:
        with pytest.raises(InputError, match="target: another process works on"):
            graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5)

    graphprune.prune_checkpoint(source, tmp_path / "slim", 0.5, progress=show)


# ---------------------------------------------------------------- memory


@pytest.mark.skipif(not residence._STATM.exists(), reason="no /proc")
def test_mapped_files_are_given_back(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4 << 20)}, tmp_path / "model.safetensors")  # 16 MB
    stored = TensorFiles(tmp_path).stored["a"]
    before = residence._resident_file_bytes()
    with residence.MappedFiles(read_size("mapped", "100GB")) as files:
        tensor = files.map(stored)
        assert tensor.sum() == 4 << 20
        assert residence._resident_file_bytes() - before >= 16_000_000
        files.give_back()
        assert residence._resident_file_bytes() - before < 4_000_000
        assert tensor.sum() == 4 << 20


def test_a_new_beginning_leaves_the_work_of_a_running_process(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "slim"
    with Journal(target, {}, True) as running:
        running.path("finished.safetensors").write_bytes(b"hours of work")
        with pytest.raises(InputError, match="target: another process works on"):
            graphprune.prune_checkpoint(source, target, 0.5, resume=False)
        assert running.path("finished.safetensors").read_bytes() == b"hours of work"
    graphprune.prune_checkpoint(source, target, 0.5, resume=False)
    assert [path.name for path in tmp_path.iterdir() if "slim" in path.name] == ["slim"]
