import numpy as np
import pytest

from lavie.errors import ConfigError
from lavie.evaluation.clip_source import find_clips
from lavie.inference.jobs import Job, draw, read_jobs, write_jobs
from lavie.inference.settings import BaseSettings

JOBS = [Job(prompt="a: b/c", name="x/0.mp4", index=4), Job(prompt="été\u2028two", name="y.mp4", index=7)]


class Sampler:
    """Draws the index as a level, and remembers what was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, indices, progress=None, **settings):
        self.asked.append((*prompts, *indices))
        return [np.full((2, 128, 128, 3), 10 * indices[0], np.uint8)]


def settings(**changes):
    values = dict(num_frames=2, height=128, width=128, fps=8, num_inference_steps=2, guidance_scale=1.0, seed=0)
    return BaseSettings(**values | dict(scheduler="ddim", negative_prompt="", **changes))


def test_jobs_come_back_as_they_were_written(tmp_path):
    assert write_jobs(tmp_path / "a/jobs.jsonl", JOBS) == 2
    assert read_jobs(tmp_path / "a/jobs.jsonl") == JOBS


@pytest.mark.parametrize(
    "line, words",
    (
        ("{", "line 1: the line: Invalid JSON"),
        ('{"prompt": "a", "name": "../x.mp4", "index": 0}', "line 1: name: .*wanted a relative path"),
        ('{"prompt": "a", "name": "/x.mp4", "index": 0}', "wanted a relative path"),
        ('{"prompt": "a", "name": "x.avi", "index": 0}', "ends in .mp4 or .png"),
        (f'{{"prompt": "a", "name": "d/{"x" * 252}.mp4", "index": 0}}', "file systems take names of 255 bytes"),
        ('{"prompt": "a", "name": "x.mp4"}', "line 1: index: Field required"),
        ('{"prompt": "a", "name": "x.mp4", "index": -1}', "index"),
        ('{"prompt": "a", "name": "x.mp4", "index": 0, "seed": 1}', "seed"),
        ('{"prompt": "a", "name": "x.mp4", "index": 0}\n{"prompt": "b", "name": "x.mp4", "index": 1}', "line 2.*twice"),
        (
            '{"prompt": "a", "name": "x.mp4", "index": 0}\n{"prompt": "b", "name": "./x.mp4", "index": 1}',
            "line 2.*twice",
        ),
        (
            '{"prompt": "a", "name": "a.png", "index": 0}\n{"prompt": "b", "name": "a.png/b.mp4", "index": 1}',
            "folder of",
        ),
        ('{"prompt": "a\\u0000", "name": "x.mp4", "index": 0}', "prompt: .*NUL character"),
        ("\n", "no line has a job"),
    ),
)
def test_what_is_no_job_is_refused_by_its_line(tmp_path, line, words):
    (tmp_path / "jobs.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=words):
        read_jobs(tmp_path / "jobs.jsonl")


def test_a_list_that_is_not_there_or_no_text_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe")
    for name in ("none.jsonl", "x.jsonl"):
        with pytest.raises(ConfigError, match=f"--jobs .*{name}: cannot be read"):
            read_jobs(tmp_path / name)


@pytest.mark.parametrize("text", ("{", "\ufeff{}", "[" * 9000))
def test_settings_that_cannot_be_read_are_named(tmp_path, text):
    (tmp_path / "settings.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"settings\.json: no settings of samples that can be read"):
        draw(Sampler(), JOBS, tmp_path, settings(), weights="w")


def test_each_job_is_drawn_once_by_its_own_noise(tmp_path):
    sampler = Sampler()
    assert draw(sampler, JOBS, tmp_path, settings(), weights="w") == 2
    assert sampler.asked == [("a: b/c", 4), ("été\u2028two", 7)]
    clips = find_clips(tmp_path)
    assert [clip.name for clip in clips] == ["x/0.mp4", "y.mp4"]
    assert [round(clip.open().read([1]).mean()) for clip in clips] == [40, 70]
    assert read_jobs(tmp_path / "prompts.jsonl") == JOBS
    (tmp_path / "y.mp4").unlink()
    assert draw(sampler, JOBS, tmp_path, settings(), weights="w") == 1
    assert sampler.asked[2:] == [("été\u2028two", 7)]


def test_a_folder_holds_samples_of_one_network_and_its_settings(tmp_path):
    sampler = Sampler()
    draw(sampler, JOBS[:1], tmp_path, settings(), weights="w")
    for values in ((settings(seed=1), "w"), (settings(), "v")):
        with pytest.raises(ConfigError, match="samples of other settings or weights"):
            draw(sampler, JOBS, tmp_path, values[0], weights=values[1])
    draw(sampler, JOBS, tmp_path, settings(seed=1), weights="w", overwrite=True)
    assert len(sampler.asked) == 3
    draw(sampler, JOBS, tmp_path, settings(seed=1), weights="w")
    assert len(sampler.asked) == 3


def test_a_file_drawn_of_another_prompt_or_noise_does_not_stand_for_the_job(tmp_path):
    sampler = Sampler()
    draw(sampler, JOBS, tmp_path, settings(), weights="w")
    for change in ({"prompt": "b"}, {"index": 5}):
        jobs = [JOBS[0].model_copy(update=change), JOBS[1]]
        with pytest.raises(ConfigError, match=r"samples of other prompts or noise, as x/0\.mp4"):
            draw(sampler, jobs, tmp_path, settings(), weights="w")
        assert draw(sampler, jobs, tmp_path, settings(), weights="w", overwrite=True) == 1
        assert read_jobs(tmp_path / "prompts.jsonl") == jobs
        draw(sampler, JOBS, tmp_path, settings(), weights="w", overwrite=True)
    # Other jobs join those of the list.
    draw(sampler, [Job(prompt="c", name="c.mp4", index=1)], tmp_path, settings(), weights="w")
    assert [job.name for job in read_jobs(tmp_path / "prompts.jsonl")] == ["x/0.mp4", "y.mp4", "c.mp4"]
    (tmp_path / "prompts.jsonl").write_text("[]\n")
    with pytest.raises(ConfigError, match="no list of samples that can be read"):
        draw(sampler, JOBS, tmp_path, settings(), weights="w")


def test_replacing_that_was_cut_leaves_nothing_that_counts_as_drawn(tmp_path):
    draw(Sampler(), JOBS, tmp_path, settings(), weights="w")

    def stops(*args, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(stops, JOBS, tmp_path, settings(seed=1), weights="w", overwrite=True)
    sampler = Sampler()
    draw(sampler, JOBS, tmp_path, settings(seed=1), weights="w")
    assert len(sampler.asked) == 2
