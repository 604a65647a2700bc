"""How well captions fit clips, against CLIP's own cosines."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lavie.config.curate_caption import AlignWork, CaptionConfig, CaptionWork
from lavie.config.curate_score import ClipConfig
from lavie.curation.run import run_stage
from lavie.curation.table import read_table
from lavie.data.media.decode import decode_frames
from tests.curation.here import Here
from tests.curation.made_cut import MadeClip, made_units, make_cut, moving
from tests.evaluation.tiny_clip import CONTEXT, write_clip, write_tokenizer

pytest.importorskip("pyarrow")


def align(out: Path, model: Path | None, tokenizer: Path | None = None):
    work = AlignWork(model=model and str(model), tokenizer=tokenizer and str(tokenizer))
    return run_stage(out, "align", work, Here())


@pytest.fixture
def out(tmp_path):
    """Captioned and embedded clips of two films; the second clip cannot be decoded, the second film has no caption."""
    write_clip(tmp_path / "clip")
    broken = MadeClip(moving(1, 12), data=b"no film at all")
    out = make_cut(tmp_path, {"a.mp4": [moving(0, 10), broken, moving(2, 40)], "b.mp4": [moving(3, 9)]})
    (tmp_path / "films/a.txt").write_text("a cat sleeps on the red sofa")
    for stage, config in (
        ("clip", ClipConfig(model=str(tmp_path / "clip"))),
        ("caption", CaptionWork(caption=CaptionConfig(captioner="sidecar"), rules=())),
    ):
        assert not run_stage(out, stage, config, Here()).failed
    return out


def expected(out: Path, folder: Path, name: int) -> float:
    """Return the mean cosine of a clip's caption and eight of its frames, by transformers' CLIPModel as a whole."""
    from PIL import Image
    from transformers import CLIPModel, CLIPTokenizer

    [unit] = made_units(out)
    row = unit.read("cut").to_pylist()[name]
    frames = decode_frames(unit.clip_bytes(row), [(2 * i + 1) * row["frames"] // 16 for i in range(8)])
    side, pictures = 32, []
    for frame in frames:
        width = side * frame.shape[1] // frame.shape[0]  # as torchvision rounds, with which CLIP was trained
        small = np.asarray(Image.fromarray(frame).resize((width, side), Image.Resampling.BICUBIC))
        left = (width - side) // 2
        pictures.append(small[:, left : left + side])
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = torch.tensor((np.array(pictures) / 255 - mean) / deviation, dtype=torch.float32).permute(0, 3, 1, 2)
    ids = CLIPTokenizer.from_pretrained(folder)("a cat sleeps on the red sofa").input_ids
    ids = torch.tensor([[*ids[: CONTEXT - 1], ids[-1]]])
    with torch.no_grad():
        found = CLIPModel.from_pretrained(folder)(input_ids=ids, pixel_values=pixels)
    return float((found.image_embeds @ found.text_embeds.T).mean())


def test_scores_are_clips_cosines(out, tmp_path):
    report = align(out, tmp_path / "clip")
    assert report.done == 1 and not report.failed
    scores = read_table(out / "table/align/000000.parquet")["clip_score"].to_pylist()
    assert scores[1] is scores[3] is None
    for i in (0, 2):
        assert scores[i] == pytest.approx(expected(out, tmp_path / "clip", i), abs=2e-3)  # embeddings have 16 bits
    assert abs(scores[0] - scores[2]) > 0.01
    assert align(out, tmp_path / "clip").done == 0


def test_it_waits_for_embeddings_and_captions(out, tmp_path):
    for stage in ("caption", "clip"):
        (out / f"table/{stage}/000000.parquet").unlink()
        report = align(out, tmp_path / "clip")
        assert report.waiting == ("000000",) and stage in report.lacking


def test_other_captions_are_scored_anew(out, tmp_path):
    align(out, tmp_path / "clip")
    before = read_table(out / "table/align/000000.parquet")["clip_score"].to_pylist()
    (tmp_path / "films/a.txt").write_text("another text")
    run_stage(out, "caption", CaptionWork(caption=CaptionConfig(captioner="sidecar"), rules=()), Here())
    assert align(out, tmp_path / "clip").done == 1
    assert read_table(out / "table/align/000000.parquet")["clip_score"].to_pylist()[0] != before[0]


def test_what_does_not_fit_is_refused(out, tmp_path):
    (failure,) = align(out, None).failed.values()
    assert "clip.model is not set: lavie curate score OUT --clip PATH" in failure
    write_tokenizer(tmp_path / "tokens")
    (tmp_path / "clip/vocab.json").rename(tmp_path / "clip/none.json")
    for file in (tmp_path / "clip").glob("tokenizer*"):
        file.unlink()
    (failure,) = align(out, tmp_path / "clip").failed.values()
    assert "align.tokenizer names its folder, by default that of clip.model" in failure
    assert align(out, tmp_path / "clip", tmp_path / "tokens").done == 1

    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig.from_pretrained(tmp_path / "clip")
    config.projection_dim = 12
    CLIPModel(config).save_pretrained(tmp_path / "other")
    (failure,) = align(out, tmp_path / "other", tmp_path / "tokens").failed.values()
    assert "embeddings of 24 numbers, and the CLIP of clip.model gives 12: `lavie curate score`" in failure
