"""A grid draws a prompt for each seed and scale, and its sheet has a column for each scale."""

import pytest

from lavie.errors import ConfigError
from lavie.inference.grid import grid_requests, read_scales, read_seeds
from lavie.inference.prompt_file import Request
from lavie.inference.settings import BaseSettings, CascadeSettings


def test_rows_are_seeds_and_columns_are_scales():
    cells = grid_requests([Request("a"), Request("b", {"num_frames": 1})], [3, 1], [4, 7.5])
    found = [(cell.over(BaseSettings()).seed, cell.over(BaseSettings()).guidance_scale) for cell in cells]
    assert found == [(3, 4), (3, 7.5), (1, 4), (1, 7.5)] * 2
    assert [cell.prompt for cell in cells] == ["a"] * 4 + ["b"] * 4
    assert cells[1].caption == "seed 3, guidance 7.5: a" and cells[4].over(BaseSettings()).num_frames == 1


def test_a_cascade_varies_the_guidance_of_one_stage():
    [cell] = grid_requests([Request("a", {"base": {"num_frames": 5}})], [3], [4], stage="base")
    settings = cell.over(CascadeSettings())
    assert (settings.base.guidance_scale, settings.base.num_frames) == (4, 5)
    assert {stage.seed for _, stage in settings} == {3} and settings.vsr.guidance_scale == 5


def test_faulty_grids_are_refused():
    with pytest.raises(ConfigError, match="a grid needs both: --grid-seeds 0,1,2 and --grid-guidance"):
        grid_requests([Request("a")], [1], [])
    with pytest.raises(ConfigError, match="got 1 prompts x 21 seeds x 20 scales: wanted 400 clips at most"):
        grid_requests([Request("a")], range(21), [float(i) for i in range(20)])
    with pytest.raises(ConfigError, match="line 2: seed is what the grid varies"):
        grid_requests([Request("a", {"seed": 1}, "line 2")], [1], [4])
    with pytest.raises(ConfigError, match="guidance_scale is what the grid varies"):
        grid_requests([Request("a", {"base": {"guidance_scale": 1}})], [1], [4], stage="base")


def test_lists_are_read():
    assert read_seeds("0, 7,-1") == [0, 7, -1] and read_scales("0,7.5") == [0, 7.5]
    for text in ("", "1,", "a", "1.5"):
        with pytest.raises(ConfigError, match=r"--grid-seeds .*wanted whole numbers, as 0,1,2"):
            read_seeds(text)
    for text in ("x", "-1", "nan", "inf", "1e30"):
        with pytest.raises(ConfigError, match=r"--grid-guidance .*wanted numbers"):
            read_scales(text)
    with pytest.raises(ConfigError, match="a number stands there twice"):
        read_seeds("1,1")
