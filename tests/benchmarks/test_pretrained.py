"""Published networks as tasks: what is asked of them by hand, and each of them where its package was downloaded."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")

from benchmarks.common import call
from benchmarks.tasks import PRETRAINED, codes, marks, packages, phonemes, readings
from benchmarks.tasks.converted import GlobalMaxPool
from benchmarks.tasks.files import NOTHING, features
from benchmarks.tasks.lines import distance, fonts, picture, texts
from benchmarks.tasks.pitch import cents, frames
from benchmarks.tasks.pretrained import Pretrained, drawn, split_of
from benchmarks.tasks.sounds import read
from benchmarks.tasks.voice import Detector, framed


@pytest.fixture(params=[name for name, task in PRETRAINED.items() if issubclass(task, Pretrained)])
def task(request: pytest.FixtureRequest) -> Pretrained:
    kind = PRETRAINED[request.param]
    missing = [name for name in kind.package if not (packages.ROOT / name).exists()]
    if missing:
        pytest.skip(f"{missing[0]} is not in build/real: {packages.HOW}")
    return kind(quick=True)


# ---------------------------------------------------------------- without the packages


def test_a_name_is_of_one_split_and_each_split_has_its_share() -> None:
    found = [split_of(f"name{i}") for i in range(2000)]
    assert found[:100] == [split_of(f"name{i}") for i in range(100)]
    shares = [found.count(split) / len(found) for split in ("training", "validation", "test")]
    assert shares == pytest.approx([0.55, 0.15, 0.3], abs=0.03)


def test_a_seed_draws_items_once() -> None:
    found = drawn(range(50), 20, seed=1)
    assert len(set(found)) == 20
    assert found == drawn(range(50), 20, seed=1) != drawn(range(50), 20, seed=2)


def test_recordings_become_16_khz(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    tone = (16384 * torch.sin(torch.arange(800) * 2 * torch.pi * 200 / 8000)).short()
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(tone.numpy().tobytes())
    found = read(path)
    wanted = 0.5 * torch.sin(torch.arange(1600) * 2 * torch.pi * 200 / 16000)
    assert torch.allclose(found[100:1500], wanted[100:1500], atol=0.01)
    with wave.open(str(path), "wb") as sound:
        sound.setparams((2, 2, 8000, 0, "NONE", ""))
    with pytest.raises(ValueError, match=r"2 channels of 16 bits at 8000 Hz; needed: 1 of 16 bits"):
        read(path)


def test_a_file_that_is_missing_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    with pytest.raises(packages.PackageMissing, match=r"weights\.pth: is not there; run `make real`"):
        packages.file("weights.pth")


def test_the_pitch_is_the_mean_around_the_most_likely_bin() -> None:
    activations = torch.zeros(2, 360)
    activations[0, [100, 101, 200]] = torch.tensor([0.9, 0.3, 0.8])
    activations[1, 7] = 1.0
    assert torch.allclose(cents(activations), torch.tensor([2005.0, 140.0]))


def test_frames_of_sound_are_standardized() -> None:
    found = frames(torch.randn(3000, generator=torch.Generator().manual_seed(0)) + 5)
    assert found.shape == (13, 1024)
    assert torch.allclose(found.std(1), torch.ones(13), atol=1e-4)


def test_the_detector_reads_frames_in_order() -> None:
    torch.manual_seed(0)
    model, sound = Detector(), framed(torch.randn(2, 64 + 512 * 5))
    assert sound.shape == (2, 5, 576)
    assert torch.equal(sound[:, 1, :64], sound[:, 0, 512:])
    found = model(sound)
    assert found.shape == (2, 5)
    assert torch.allclose(model(sound[:, :3]), found[:, :3], atol=1e-6)


def test_a_speller_writes_what_it_foretells() -> None:
    torch.manual_seed(0)
    model, letters = phonemes.Speller(), phonemes.numbers(["cat", "dog"])
    assert letters.tolist() == [[5, 3, 22, 2], [6, 17, 9, 2]]
    found = model.spell(letters)
    before = torch.cat((torch.full((2, 1), phonemes.START), found[:, :-1]), dim=1)
    assert torch.equal(model(letters, before).argmax(-1), found)


def test_rendered_lines_are_dark_on_light() -> None:
    found = picture("a line of text", fonts()[0], ink=0, paper=255)
    assert found.shape == (3, 48, 320)
    assert found.min() >= -1 and found.max() <= 1
    assert 0.02 < (found < 0).float().mean() < 0.4
    assert not set(texts("training")) & set(texts("test"))


def test_edit_distances_by_hand() -> None:
    assert [distance(*pair) for pair in (("kitten", "sitting"), ("", "abc"), ("same", "same"))] == [3, 3, 0]


def test_features_are_the_ends_without_blanks() -> None:
    found = features(b"\n\n" + b"a" * 2000 + b"z \n")
    assert len(found) == 2048
    assert found[:1024] == [97] * 1024 and found[-2:] == [97, 122]
    short = features(b" ab ")
    assert short[:3] == [97, 98, 32] and short[3] == NOTHING and short[-4:] == [NOTHING, 32, 97, 98]


def test_the_greatest_value_of_each_channel() -> None:
    assert torch.equal(GlobalMaxPool()(torch.arange(12.0).reshape(1, 2, 6)), torch.tensor([[[5.0], [11.0]]]))


def test_readings_have_their_tones_as_digits() -> None:
    assert [readings.numbered(said) for said in ("yī", "lǜ", "zhōng", "de", "hǎo", "nǚ")] == [
        "yi1",
        "lu:4",
        "zhong1",
        "de5",
        "hao3",
        "nu:3",
    ]


def test_marks_are_of_the_letter_before_them() -> None:
    shadda, fatha, sukun = marks.SHADDA, marks.FATHA, marks.SUKUN
    assert marks.parted(f"ر{fatha}ب{fatha}{shadda} ل{sukun}") == ("رب ل", (fatha, shadda + fatha, "", sukun))
    assert marks.parted(fatha) == ("", ())


def test_pictures_of_codes_follow_from_the_seed() -> None:
    found = codes.pictures(["a7Kq", "mmmmmm"], 3)
    assert found.shape == (2, 1, 64, 160) and found.min() >= 0 and found.max() <= 1
    assert torch.equal(found, codes.pictures(["a7Kq", "mmmmmm"], 3))
    assert not torch.equal(found, codes.pictures(["a7Kq", "mmmmmm"], 4))


# ---------------------------------------------------------------- with them


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
def test_published_networks_are_good_at_their_tasks(task: Pretrained) -> None:
    dense = task.dense(0)
    assert task.evaluate(dense) > 0.5
    assert task.validate(dense) > 0.5
    (inputs, target), *_ = task.answers(dense, 4, seed=0)
    assert task.loss(call(dense, inputs), target).item() > 1e-4
    assert _flat(task.calibration(4, 0)) == _flat(task.calibration(4, 0)) != _flat(task.calibration(4, 1))
    untrained = task.evaluate(_reset(dense))
    assert untrained < 0.45


def _flat(batches: list[object]) -> list[list[float]]:
    tensors = [part for batch in batches for part in (batch if isinstance(batch, tuple) else (batch,))]
    return [tensor.flatten().tolist() for tensor in tensors]


def _reset(model: nn.Module) -> nn.Module:
    """Weights of nothing, so that answers are constant."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1000:
                tensor.zero_()
    return model
