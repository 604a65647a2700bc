"""Every plot whose values are known has a place of its own in the picture, and shows all of them."""

from collections import Counter

import pytest
from matplotlib.figure import Figure

from lavie.data.check.figures import draw_statistics
from lavie.data.check.report import CheckReport

VALUES = {
    "categories": Counter(cats=3, dogs=1),
    "durations": [1.0, 2.5, 4.0],
    "words": [3, 5, 5, 8],
    "aesthetic": [4.5, 5.5],
    "sizes": Counter({(64, 48): 2, (32, 32): 5}),
    "shards": [{"shard": "a/0.tar", "videos": 3, "images": 1}, {"shard": "b/0.tar", "videos": 0, "images": 2}],
}
TITLES = (
    *("categories", "duration of the videos", "length of the captions", "aesthetic score", "resolution"),
    "samples of the shards",
)


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """A function: a report -> the axes with something in them."""

    def drawn(report: CheckReport) -> list:
        figures = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_: figures.append(figure))
        draw_statistics(report, tmp_path / "x.png")
        figures[0].canvas.draw()
        return [axes for axes in figures[0].axes if axes.axison]

    return drawn


@pytest.mark.parametrize("known", range(7))
def test_all_that_is_known_is_drawn(draw, known):
    """Three in a row, of which none lies upon another."""
    axes = draw(CheckReport(**dict(list(VALUES.items())[:known])))
    assert [a.get_title() for a in axes] == list(TITLES[:known])
    assert all(a.patches for a in axes)
    places = [tuple(round(edge, 2) for edge in a.get_position().bounds[:2]) for a in axes]
    assert len({*places}) == known and len({across for across, _ in places}) == min(3, known)


def test_bars_and_histograms_count_every_sample(draw):
    categories, durations, words, aesthetic, sizes, shards = draw(CheckReport(**VALUES))
    for axes, labels, counts in (
        (categories, ["cats", "dogs"], [3, 1]),
        (sizes, ["32 x 32", "64 x 48"], [5, 2]),
        (shards, ["a/0.tar", "b/0.tar"], [4, 2]),
    ):
        assert [text.get_text() for text in axes.get_yticklabels()] == labels
        assert [bar.get_width() for bar in axes.patches] == counts
    for axes, number in ((durations, 3), (words, 4), (aesthetic, 2)):
        assert sum(bar.get_height() for bar in axes.patches) == number


def test_labels_beyond_the_most_share_a_bar(draw):
    (axes,) = draw(CheckReport(categories=Counter({f"c{i:02}": 100 - i for i in range(15)})))
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [*(f"c{i:02}" for i in range(12)), "3 more"]
    assert [bar.get_width() for bar in axes.patches] == [*(100 - i for i in range(12)), 88 + 87 + 86]
