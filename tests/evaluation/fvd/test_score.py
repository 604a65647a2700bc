import os
import shutil

import numpy as np
import pytest
import torch

from lavie.data.media.encode import encode_mp4
from lavie.errors import CheckpointError, DataError
from lavie.evaluation.clip_source import find_clips
from lavie.evaluation.fvd.distance import frechet, mmd
from lavie.evaluation.fvd.extractors import I3DLogits, Scripted
from lavie.evaluation.fvd.features import extract
from lavie.evaluation.fvd.protocol import PRESETS, Protocol, Reading, Resize
from lavie.evaluation.fvd.rows import read_rows
from lavie.evaluation.fvd.score import fvd
from lavie.evaluation.measured import compare
from lavie.testing import SHARED
from tests.markers import requires_shared

CPU = torch.device("cpu")
SIDE = Reading(steps=(Resize(stretch=(8, 8)),))
PROTOCOL = Protocol(num_frames=4, real=SIDE, fake=SIDE)


class Clips(torch.nn.Module):
    """Three numbers of a clip: its level, its contrast, and its movement."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=[1, 2, 3, 4])
        return torch.stack([x.mean(dim=[1, 2, 3, 4]), x.flatten(1).std(dim=1), moved], dim=1)


class Frames(torch.nn.Module):
    """Two numbers of a frame."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean(dim=[1, 2, 3]), x.flatten(1).std(dim=1)], dim=1)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    for name, module in (("clips", Clips()), ("frames", Frames())):
        torch.jit.save(torch.jit.script(module), folder / f"{name}.pt")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Twelve clips of moving noise on each side, a little different from side to side."""
    folder = tmp_path_factory.mktemp("sets")
    for side, level in (("real", 90), ("fake", 110)):
        (folder / side).mkdir()
        for n in range(12):
            generator = np.random.default_rng([level, n])
            frames = np.cumsum(generator.integers(0, 12, (4, 16, 16, 3)), axis=0) + level + generator.integers(0, 30)
            (folder / side / f"{n:02}.mp4").write_bytes(encode_mp4(frames.astype(np.uint8), 8, lossless=True))
    return folder


def measured(sets, own, protocol=PROTOCOL, fake="fake", **options):
    extractor = Scripted(own / "clips.pt", CPU)
    return fvd([sets / "real"], [sets / fake], protocol, extractor, preset="own", **options)


def test_the_result_says_all_that_a_reader_needs(sets, own):
    result = measured(sets, own, shuffled=True, frames=Scripted(own / "frames.pt", CPU, frames=True))
    real, fake = (
        extract(find_clips(sets / side), PROTOCOL, SIDE, Scripted(own / "clips.pt", CPU)).matrix
        for side in ("real", "fake")
    )
    assert result["fvd"] == result["value"] == pytest.approx(frechet(real, fake))
    assert result["kvd"] == pytest.approx(mmd(real, fake))
    low, high = result["interval"]
    assert low < result["fvd"] < high
    assert [part["fake"] for part in result["sizes"]] == [3, 6, 12]
    assert result["n"] == {"real": 12, "fake": 12}
    assert result["frames"]["n"] == {"real": 48, "fake": 48} and result["frames"]["frechet"] > 0
    assert result["fvd_shuffled"] > result["fvd"]  # shuffled noise moves more
    assert result["weights"]["name"] == "own_clips" and len(result["weights"]["sha256"]) == 64
    assert result["protocol"]["fake"]["steps"][0]["stretch"] == [8, 8]
    assert result["data"]["real"]["hash"] != result["data"]["fake"]["hash"]
    assert any("fewer than 256" in note for note in result["notes"])


def test_features_that_were_kept_stand_for_the_clips(sets, own, tmp_path):
    keep = tmp_path / "f.safetensors"
    result = measured(sets, own, keep=keep)
    again = fvd([keep], [keep], PROTOCOL, Scripted(own / "clips.pt", CPU), preset="own")
    assert again["fvd"] == result["fvd"] and again["halves"] == result["halves"]
    other = PROTOCOL.model_copy(update={"num_frames": 3})
    with pytest.raises(DataError, match="of another preset, number of frames, seed or weights"):
        fvd([keep], [sets / "fake"], other, Scripted(own / "clips.pt", CPU), preset="own")


def test_features_of_another_protocol_are_not_written_over(sets, own, tmp_path):
    keep = tmp_path / "f.safetensors"
    measured(sets, own, keep=keep)
    before = keep.read_bytes()
    other = PROTOCOL.model_copy(update={"num_frames": 3})
    words = r"--features .*f\.safetensors: it holds features of another preset, number of frames, seed or weights"
    with pytest.raises(DataError, match=words):
        measured(sets, own, other, keep=keep)
    assert keep.read_bytes() == before
    # What is asked beside the same distance goes on with it.
    measured(sets, own, keep=keep, shuffled=True)
    assert {*read_rows(keep)} == {"real", "fake", "fake_shuffled"}


def test_what_is_missing_is_said_before_any_clip_is_measured(sets, own, tmp_path):
    class Asked(Scripted):
        def __call__(self, clips):
            raise AssertionError("no clip is measured")

    extractor, keep = Asked(own / "clips.pt", CPU), tmp_path / "f.safetensors"
    with pytest.raises(DataError, match="nowhere: no such file"):
        fvd([sets / "real"], [tmp_path / "nowhere"], PROTOCOL, extractor, preset="own")
    measured(sets, own, keep=keep)
    with pytest.raises(DataError, match=r"f\.safetensors: it holds .*, and no fake_shuffled"):
        fvd([sets / "real"], [keep], PROTOCOL, extractor, preset="own", shuffled=True)


def test_features_in_several_files_are_those_in_one(sets, own, tmp_path):
    for part in range(3):
        folder = tmp_path / f"{part}"
        folder.mkdir()
        for path in sorted((sets / "fake").iterdir())[part::3]:
            (folder / path.name).symlink_to(path)
        fvd(
            [sets / "real"],
            [folder],
            PROTOCOL,
            Scripted(own / "clips.pt", CPU),
            preset="own",
            keep=tmp_path / f"{part}.safetensors",
        )
    files = [tmp_path / f"{part}.safetensors" for part in (2, 0, 1)]
    merged = fvd([sets / "real"], files, PROTOCOL, Scripted(own / "clips.pt", CPU), preset="own")
    assert merged["fvd"] == pytest.approx(measured(sets, own)["fvd"], abs=1e-9)
    folders = fvd(
        [sets / "real"], [tmp_path / f"{p}" for p in range(3)], PROTOCOL, Scripted(own / "clips.pt", CPU), preset="own"
    )
    assert folders["fvd"] == pytest.approx(merged["fvd"], abs=1e-9)


def test_a_clip_that_is_given_twice_is_refused(sets, own, tmp_path):
    (tmp_path / "real").symlink_to(sets / "real")
    for twice in ([sets / "real", sets / "real"], [sets / "real", tmp_path / "real"]):
        with pytest.raises(DataError, match=r"another source has real/00\.mp4 too: give each folder once"):
            fvd(twice, [sets / "fake"], PROTOCOL, Scripted(own / "clips.pt", CPU), preset="own")


def test_a_source_whose_name_is_no_utf8_is_refused_where_clips_are_called_by_it(sets, own, tmp_path):
    other = tmp_path / os.fsdecode(b"caf\xe9")
    other.symlink_to(sets / "fake")
    copied = shutil.copytree(other, tmp_path / os.fsdecode(b"th\xe9"))
    with pytest.raises(DataError, match=r"the name of th\\udce9/00\.mp4 is no UTF-8"):
        fvd([sets / "real", copied], [sets / "fake"], PROTOCOL, Scripted(own / "clips.pt", CPU), preset="own")


def test_results_of_two_protocols_numbers_or_reals_do_not_compare(sets, own, tmp_path):
    result = measured(sets, own)
    with pytest.raises(DataError, match="two protocols do not compare"):
        compare(result, measured(sets, own, PROTOCOL.model_copy(update={"ddof": 0})))
    for path in sorted((sets / "fake").iterdir())[:9]:
        (tmp_path / path.name).symlink_to(path)
    fewer = fvd([sets / "real"], [tmp_path], PROTOCOL, Scripted(own / "clips.pt", CPU), preset="own")
    with pytest.raises(DataError, match="two numbers of clips do not compare"):
        compare(result, fewer)
    with pytest.raises(DataError, match="two sets of real clips do not compare"):
        compare(result, fvd([sets / "fake"], [sets / "fake"], PROTOCOL, Scripted(own / "clips.pt", CPU), preset="own"))
    same = compare(result, measured(sets, own))
    assert same["difference"] == 0 == same["standard_error"] and same["verdict"] == "undecidable"
    better = compare(result, measured(sets, own, fake="real"))
    assert better["verdict"] == "b is lower" and better["pairs"] == 100


def test_few_clips_give_a_number_and_a_note(sets, own, tmp_path):
    for path in sorted((sets / "fake").iterdir())[:5]:
        (tmp_path / path.name).symlink_to(path)
    result = fvd([sets / "real"], [tmp_path], PROTOCOL, Scripted(own / "clips.pt", CPU), preset="own")
    assert result["interval"] is None and any("need 8 of each" in note for note in result["notes"])


def test_a_module_that_is_none_or_gives_another_shape_is_refused(sets, own, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="no TorchScript module"):
        Scripted(tmp_path / "x.pt", CPU)
    clips = torch.zeros(2, 3, 4, 8, 8)
    with pytest.raises(CheckpointError, match=r"frames\.pt fails on \(2, 3, 4, 8, 8\): RuntimeError"):
        Scripted(own / "frames.pt", CPU)(clips)
    with pytest.raises(CheckpointError, match=r"clips\.pt gave \(1, 3\) for \(8, 3, 8, 8\)|fails on"):
        Scripted(own / "clips.pt", CPU, frames=True)(clips)


@requires_shared
@pytest.mark.slow
def test_geometry_moves_fvd_by_hundreds_and_antialiasing_by_little():
    """The clips of ../shared against themselves: stretched or cropped is another world, smoothed or not is not."""
    extractor = I3DLogits(SHARED / "assets/i3d_k400/i3d_k400_rgb_fp16.safetensors", CPU)
    clips = find_clips(SHARED / "assets/clips_16f")
    protocol = PRESETS["tats"]

    def matrix(*steps):
        reading = Reading(steps=steps)
        return extract(clips, protocol, reading, extractor).matrix

    from lavie.evaluation.fvd.protocol import Crop

    crop = Crop(size=(224, 224))
    cropped, smooth = matrix(Resize(short_side=224), crop), matrix(Resize(short_side=224, antialias=True), crop)
    stretched = matrix(Resize(stretch=(224, 224)))
    assert frechet(cropped, stretched) > 500
    assert 0 < frechet(cropped, smooth) < 50


class NoNumbers(torch.nn.Module):
    """A module that divides by the standard deviation of a clip, which is 0 for black clips."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.mean(dim=[2, 3, 4]) + 1) / x.flatten(1).std(dim=1, keepdim=True)


def test_a_module_that_gives_no_number_is_named_and_the_clip_is_not_blamed(sets, tmp_path):
    torch.jit.save(torch.jit.script(NoNumbers()), tmp_path / "own.pt")
    extractor = Scripted(tmp_path / "own.pt", CPU)
    assert extractor(torch.rand(1, 3, 4, 8, 8)).isfinite().all()
    with pytest.raises(CheckpointError, match=r"own\.pt gives NaN or infinity for a clip that can be read"):
        extractor(torch.full((1, 3, 4, 8, 8), -1.0))


def test_a_split_says_which_reals_count(sets, own, tmp_path):
    (tmp_path / "split.txt").write_text("".join(f"real/{n:02}.mp4 {n}\n" for n in range(9)))
    extractor = Scripted(own / "clips.pt", CPU)
    result = fvd([sets], [sets / "fake"], PROTOCOL, extractor, preset="own", splits=[tmp_path / "split.txt"])
    assert result["n"] == {"real": 9, "fake": 12}
    with pytest.raises(DataError, match="--split lists clips of one folder, --real names 2"):
        fvd([sets, sets], [sets], PROTOCOL, extractor, preset="own", splits=[tmp_path / "split.txt"])
