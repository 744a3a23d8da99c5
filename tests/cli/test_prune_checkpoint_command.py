"""``graphprune prune-checkpoint``: what it writes and says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from graphprune.cli import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def test_it_writes_a_checkpoint(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "slim"
    assert main(["prune-checkpoint", str(source), str(target), "--mlp", "0.5", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # the bars of Transformers are for a terminal
    assert json.loads(captured.out)["written"] == str(target)
    slim = transformers.AutoModelForCausalLM.from_pretrained(target)
    assert slim.config.intermediate_size == 32
    assert main(["prune-checkpoint", str(source), str(target), "--mlp", "0.5"]) == 2
    assert "slim exists" in capsys.readouterr().err


def test_records_of_token_ids_calibrate(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)  # progress is shown on a terminal
    records = [{"input_ids": torch.arange(start, start + 8).tolist()} for start in (0, 20)]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    asked = ["--mlp", "0.5", "--calibration", str(tmp_path / "records.jsonl")]
    assert main(["prune-checkpoint", str(source), str(tmp_path / "slim"), *asked]) == 0
    captured = capsys.readouterr()
    assert "2 of 2 records" in captured.err
    assert all(stage in captured.err for stage in ("scores", "slices", "repair", "weights"))
    assert f"saved in {tmp_path / 'slim'}" in captured.out.replace("\n", "")


def test_help_says_which_data_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune-checkpoint", "--help"]) == 0
    assert "--calibration takes a file of JSON lines, or module:function, and no folder." in capsys.readouterr().out


def test_wrong_usage(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune-checkpoint", str(source), str(tmp_path / "slim")]) == 2
    assert "nothing is asked for" in capsys.readouterr().err
    (tmp_path / "images").mkdir()
    (tmp_path / "images/one.png").touch()
    asked = ["--mlp", "0.5", "--calibration", str(tmp_path / "images")]
    assert main(["prune-checkpoint", str(source), str(tmp_path / "slim"), *asked]) == 2
    assert "--calibration: is a folder; give a file of JSON lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--mapped x", "--mapped: 'x' is no number of bytes with its unit; give one such as 2GB"),
        ("--max-shard-size 0", "--max-shard-size: '0' is no number of bytes"),
        ("--memory 1 --mlp 0.5", "--memory: is of repair, and nothing is repaired"),
        ("--no-repair", "--no-repair: is about --calibration"),
        ("--samples 3", "--samples: is for a folder or a file, and --calibration is not given"),
        ("--latency 0.5", "--latency: needs the model in memory"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    assert main(["prune-checkpoint", str(source), str(tmp_path / "slim"), "--mlp", "0.5", *options.split()]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_source_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune-checkpoint", str(tmp_path / "gone"), str(tmp_path / "slim"), "--mlp", "0.5"]) == 2
    assert "gone holds no config.json" in capsys.readouterr().err
