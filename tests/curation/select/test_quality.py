"""The set of the best clips: percentiles, films, categories and ties, counted by hand."""

import numpy as np
import pytest

from lavie.cli import main as cli
from lavie.config.curate_quality import QualityConfig
from lavie.config.curate_select import Rule, SelectConfig
from lavie.curation.select.quality import choose_quality
from lavie.curation.select.select import read_selection, select
from lavie.errors import ConfigError, DataError
from tests.curation.select import columns

pytest.importorskip("pyarrow")
ALL = SelectConfig(rules=(Rule(column="frames", min=16),))


def curated(tmp_path, rows) -> "columns.Path":
    """Write clips of the given film, category and scores, and select all of them."""
    out = columns.list_units(tmp_path, 1)
    plain = dict(frames=20, fps=10.0, duration=2.0, width=64, height=64, method="copy", bytes=1)
    rows = [plain | row for row in rows]
    for stage in ("cut", "clip", "align"):
        columns.write(out, 0, stage, rows)
    select(out, ALL)
    return out


def row(name: str, film: str, score: float | None, category: str | None = "cats", aesthetic: float | None = None):
    aesthetic = score if aesthetic is None else aesthetic
    return dict(clip=name, film=film, category=category, clip_score=score, aesthetic_min=aesthetic)


def chosen(out) -> str:
    return "".join(read_selection(out, "quality.parquet")["clip"].to_pylist())


def test_percentiles_films_and_ties(tmp_path):
    scores = dict(zip("abcdefghij", range(1, 11), strict=True))
    out = curated(tmp_path, [row(name, "x" if name in "hij" else name, s) for name, s in scores.items()])
    quality = choose_quality(out, QualityConfig(percentile=50, count=10))
    assert quality.thresholds == {"aesthetic_min": 5.5, "clip_score": 5.5} and quality.candidates == 5
    assert chosen(out) == "jigf"  # h is the third of its film
    assert read_selection(out, "quality.parquet")["mean_rank"].to_pylist() == [0, 1, 3, 4]
    choose_quality(out, QualityConfig(percentile=50, count=3, per_film=1))
    assert chosen(out) == "jgf"
    choose_quality(out, QualityConfig(percentile=90, count=9))
    assert chosen(out) == "j"  # 9.1 is the percentile, and i has 9


def test_the_mean_of_ranks_decides_and_then_the_name(tmp_path):
    clips = dict(b=(4, 1), a=(1, 4), d=(3, 3), c=(2, 2))
    rows = [row(name, name, score, aesthetic=aesthetic) for name, (aesthetic, score) in clips.items()]
    out = curated(tmp_path, rows)
    choose_quality(out, QualityConfig(percentile=0))
    found = read_selection(out, "quality.parquet")
    # Ranks (better clips): d 1 and 1, a 3 and 0, b 0 and 3, c 2 and 2.
    assert (chosen(out), found["mean_rank"].to_pylist()) == ("dabc", [1.0, 1.5, 1.5, 2.0])


def test_categories_are_filled_evenly(tmp_path):
    rows = [row(f"{i}", f"cat{i}", 100.0 - i) for i in range(6)]
    rows += [row("d", "d", 50.0, "dogs"), row("e", "e", 49.0, "dogs"), row("n", "n", 10.0, None)]
    out = curated(tmp_path, rows)
    for count, expected in ((1, "0"), (2, "0d"), (3, "0dn"), (4, "01dn"), (5, "01den"), (7, "0123den")):
        quality = choose_quality(out, QualityConfig(percentile=0, count=count))
        assert chosen(out) == expected
    assert quality.chosen == {"": 1, "cats": 4, "dogs": 2}


def test_scores_that_are_missing(tmp_path, call):
    rows = [row("a", "a", 5.0), row("b", "b", None, aesthetic=9.0), row("c", "c", np.nan), row("d", "d", 4.0)]
    out = curated(tmp_path, rows)
    quality = choose_quality(out, QualityConfig(percentile=0))
    assert quality.without == {"aesthetic_min": 1, "clip_score": 2} and chosen(out) == "ad"
    code, text = call(cli.main, "curate", "quality", str(out), "--count", "3", "quality.percentile=0")
    assert code == 0 and "2 of 3 clips" in text and "aesthetic_min >= 4, clip_score >= 4" in text
    # The selection has no luma, for no rule wants it: it comes from its stage.
    columns.write(
        out, 0, "motion", [dict(clip=name, luma=luma) for name, luma in zip("abcd", (1, 4, 2, 3), strict=True)]
    )
    choose_quality(out, QualityConfig(columns=("luma",), percentile=40))
    assert chosen(out) == "bd"
    with pytest.raises(ConfigError, match=r"quality.columns: no selected clip has a value in text_area"):
        choose_quality(out, QualityConfig(columns=("text_area",)))
    with pytest.raises(
        ConfigError, match=r"quality.columns: no stage makes a column clip_scor; did you mean clip_score"
    ):
        choose_quality(out, QualityConfig(columns=("clip_scor",)))
    with pytest.raises(ConfigError, match=r"film is of type string: wanted a column of numbers"):
        choose_quality(out, QualityConfig(columns=("film",)))
    columns.write(out, 0, "cut", [dict(clip="z", film="z", duration=1.0)])
    with pytest.raises(DataError, match="of other clips than are cut now"):
        choose_quality(out, QualityConfig(columns=("luma",)))


def test_it_wants_a_selection(tmp_path):
    out = columns.list_units(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"`lavie curate select .* comes first"):
        choose_quality(out, QualityConfig())
