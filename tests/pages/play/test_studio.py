"""The queue: orders are drawn one after the other, can be ended between two steps, and leave clips in the gallery."""

import threading

import av
import pytest

from lavie.errors import ConfigError
from lavie.models.lora.choice import LoraChoice
from lavie.pages.play.gallery import Gallery
from lavie.pages.play.order import read_order
from lavie.pages.play.studio import MOST_JOBS, REMEMBERED, FullError
from tests.pages.play.studios import STEPS, asked, some_studio, wait


@pytest.fixture
def studio(tmp_path):
    studio, counter = some_studio(tmp_path)
    yield studio, counter
    counter.may_step.set()
    studio.close()


def submit(studio, **changes):
    return studio.submit(read_order(asked(**changes)))


def states(studio):
    return [job["state"] for job in studio.told()["jobs"]]


def test_an_order_becomes_clips_of_seeds_that_follow_each_other(studio, tmp_path):
    studio, counter = studio
    order = asked(seed=7, clips=3, negative_prompt="fog", stages={"base": {"guidance_scale": 2}})
    job = studio.submit(read_order(order))
    wait(lambda: job.state == "done")
    assert [clip.settings.base.seed for clip in counter.drawn] == [7, 8, 9]
    assert {clip.settings.base.negative_prompt for clip in counter.drawn} == {"fog"}
    shown = studio.gallery.page(0, 10)
    assert [clip["order"]["seed"] for clip in shown] == [9, 8, 7] and job.made == [clip["id"] for clip in shown[::-1]]

    # What stands beside a clip draws it once more, alone.
    first = shown[-1]
    again = studio.submit(read_order(first["order"]))
    wait(lambda: again.state == "done")
    assert counter.drawn[-1].settings == counter.drawn[0].settings and counter.drawn[-1].prompt == "a fox"
    assert first["settings"]["base"] == counter.drawn[0].settings.base.model_dump(mode="json")
    assert first["weights"] == {"base": "weights of a counter"} and first["size"] == [2, 16, 24]
    with av.open(str(studio.gallery.file(f"{first['id']}.mp4"))) as video:
        assert sum(1 for _ in video.decode(video=0)) == 2


def test_the_seventeenth_job_is_refused(studio):
    studio, counter = studio
    counter.may_step.clear()
    jobs = [submit(studio) for _ in range(MOST_JOBS)]
    with pytest.raises(FullError, match="the queue is full: 16 jobs"):
        submit(studio)
    assert studio.cancel(jobs[-1].id)
    submit(studio)


def test_a_cancelled_job_ends_before_its_next_step(studio):
    studio, counter = studio
    counter.may_step.clear()
    job, next_job = submit(studio), submit(studio)
    assert counter.stepped.wait(60)
    wait(lambda: job.done["base"] == (1, STEPS))
    assert studio.cancel(job.id) and studio.told()["jobs"][0]["state"] == "cancelling"
    counter.may_step.set()
    wait(lambda: next_job.state == "done")
    assert job.state == "cancelled" and job.done["base"] == (1, STEPS) and job.made == []
    assert not studio.cancel(job.id) and len(studio.gallery) == 1


def test_a_waiting_job_is_cancelled_at_once(studio):
    studio, counter = studio
    counter.may_step.clear()
    first, second = submit(studio), submit(studio)
    assert studio.cancel(second.id) and second.state == "cancelled"
    counter.may_step.set()
    wait(lambda: first.state == "done")
    assert len(counter.drawn) == 1


@pytest.mark.parametrize(
    "fault, told", ((ConfigError("no such layer"), "no such layer"), (RuntimeError("CUDA\nx"), "RuntimeError: CUDA"))
)
def test_a_job_that_fails_says_why_and_the_next_one_is_drawn(studio, fault, told):
    studio, counter = studio
    counter.fault = fault
    job = submit(studio)
    wait(lambda: job.state == "failed")
    assert job.told()["error"] == told
    counter.fault = None
    again = submit(studio)
    wait(lambda: again.state == "done")


@pytest.mark.parametrize(
    "changes, told",
    (
        ({"model": "two"}, "model: got 'two', wanted one of one"),
        ({"stop_after": "vsr"}, "one has no stage vsr"),
        ({"stages": {"vsr": {"guidance_scale": 2}}}, "vsr does not run"),
        ({"loras": {"style": 1}}, "loras: there is no 'style'"),
        ({"image": "0" * 32}, "there is no upload"),
        ({"strength": 0.5}, "strength draws over an image"),
        ({"prompt": "a [fox|owl]"}, r"\|"),
        ({"stages": {"base": {"guidance_scale": 99}}}, "too much"),
    ),
)
def test_what_cannot_be_drawn_is_refused_before_it_is_queued(studio, changes, told):
    studio, _ = studio
    with pytest.raises(ConfigError, match=told):
        submit(studio, **changes)
    assert states(studio) == []


@pytest.mark.parametrize(
    "changes",
    (
        {"prompt": ""}, {"prompt": 3}, {"seed": -1}, {"seed": 2**53}, {"clips": 0}, {"clips": 17}, {"unknown": 1},
        {"strength": 2}, {"image": "../x"}, {"stop_after": "none"}, {"stages": {"base": {"num_frames": 9}}},
        {"stages": {"base": {"num_inference_steps": 1}}}, {"prompt": "x" * 4001},
    ),
)  # fmt: skip
def test_an_order_out_of_range_names_its_key(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        read_order(asked(**changes))


def test_loras_are_merged_once_for_orders_that_share_them(tmp_path):
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"weights")
    studio, _ = some_studio(tmp_path, {"style": LoraChoice(file)})
    try:
        for scale in (0.5, 0.5, 0, 1):
            job = submit(studio, loras={"style": scale})
            wait(lambda job=job: job.state == "done")
        assert [[lora.scale for lora in loras] for loras in studio.sources["one"].loads] == [[0.5], [], [1]]
    finally:
        studio.close()


def test_only_the_last_jobs_are_remembered(studio):
    studio, _ = studio
    for _ in range(REMEMBERED + 3):
        job = submit(studio)
        wait(lambda job=job: job.state == "done")
    assert len(states(studio)) == REMEMBERED and len(studio.gallery) == REMEMBERED + 3


def test_closing_ends_the_thread_between_two_steps(tmp_path):
    studio, counter = some_studio(tmp_path)
    counter.may_step.clear()
    job = submit(studio)
    assert counter.stepped.wait(60)
    closing = threading.Thread(target=studio.close)
    closing.start()
    wait(lambda: job.cancelled)
    counter.may_step.set()
    closing.join(60)
    assert job.state == "cancelled" and len(Gallery(tmp_path / "gallery")) == 0
