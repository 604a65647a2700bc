import json

import pytest

from lavie.errors import DataError
from lavie.evaluation.captions import (
    Captions,
    draw_msrvtt,
    match,
    msrvtt_captions,
    msrvtt_jobs,
    own_captions,
    plain_name,
    read_captions,
    require_drawn_of,
)
from lavie.evaluation.clip_source import VideoClip, find_clips
from lavie.inference.jobs import read_jobs, write_jobs
from tests.training.fixtures import rendered

__all__ = ["rendered"]


def annotation(path, videos=3, captions=20, shuffled=False):
    """A file in the form of test_videodatainfo.json, with a video of another split."""
    names = [f"video{7010 + n}" for n in range(videos)]
    listed = [{"video_id": name, "split": "test", "category": 1, "id": 7010} for name in names]
    listed.append({"video_id": "video0", "split": "train", "category": 1, "id": 0})
    sentences = [
        {"caption": f"caption {i} of {name}", "video_id": name, "sen_id": 20 * n + i}
        for n, name in enumerate([*names, "video0"])
        for i in range(captions)
    ]
    if shuffled:
        listed.reverse()
        sentences.reverse()
    path.write_text(json.dumps({"info": {}, "videos": listed, "sentences": sentences}))
    return path


def test_tables_of_several_forms(tmp_path):
    table = tmp_path / "prompts.jsonl"
    table.write_text('{"name": "00000", "prompt": "a fox", "index": 0}\n\n{"name": "00001", "prompt": "a cat"}\n')
    assert read_captions(table).texts == {"00000": "a fox", "00001": "a cat"}
    table.write_text('{"video": "a/b.GIF", "caption": "a fox"}\n')
    assert read_captions(table).texts == {"a/b": "a fox"}
    table = tmp_path / "t.csv"
    table.write_text('file,text\nv1.5.mp4,"a fox, red"\n')
    assert read_captions(table).texts == {"v1.5": "a fox, red"}
    assert read_captions(table).origin == {"source": str(table)}


@pytest.mark.parametrize(
    "name, text, words",
    (
        ("x.txt", "a", "wanted a .jsonl or a .csv"),
        ("x.jsonl", "{", "cannot be read"),
        ("x.jsonl", "\n", "no row has a caption"),
        ("x.jsonl", "[1]", r"line 1: wanted a name \(name, video, file\) .*, got nothing"),
        ("x.jsonl", '{"name": "a", "words": "b"}', r"line 1: .*got name, words"),
        ("x.jsonl", '{"name": "a", "prompt": 3}', "line 1: wanted a name"),
        ("x.csv", "name,prompt\na.mp4,x\na.gif,y\n", "line 3: a stands there twice"),
        ("x.csv", "name,prompt\na.mp4,\n", "line 2: wanted a name"),
        ("x.csv", "name,prompt\na.mp4,a fox, red\n", "line 2: cannot be read: 1 more cells than the first line"),
    ),
)
def test_a_table_that_cannot_be_used_says_where(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_captions(tmp_path / name)


def test_clips_and_captions_are_matched_by_name():
    captions = Captions({"a": "x", "b/c": "y"}, {"source": "t.csv"})
    assert match(["b/c.mp4", "a"], captions) == []
    assert match(["a.gif"], captions) == ["b/c"]
    with pytest.raises(DataError, match=r"1 of 2 clips have no caption in t.csv, as d.mp4: it names a, for example"):
        match(["a.mp4", "d.mp4"], captions)
    with pytest.raises(DataError, match=r"a\.mp4 and a\.mov are of one caption"):
        match(["a.mp4", "a.mov"], captions)
    assert plain_name("v1.5") == "v1.5" and plain_name("x.MP4") == "x"


def test_clips_drawn_of_other_captions_are_refused():
    asked = Captions({"a": "x", "b": "y"}, {})
    require_drawn_of(Captions({"a": "x", "c": "z"}, {}), asked)
    with pytest.raises(
        DataError, match=r"1 clips were drawn of other captions, as b of 'z', and not 'y': wanted the --seed"
    ):
        require_drawn_of(Captions({"a": "x", "b": "z"}, {}), asked)


def test_clips_of_shards_bring_their_captions(rendered):
    clips = find_clips(rendered / "validation")
    captions = own_captions(clips, rendered)
    assert (
        captions.texts == {clip.name: clip.sample.caption for clip in clips}
        and match([c.name for c in clips], captions) == []
    )
    assert own_captions([*clips, VideoClip("x.mp4", rendered)], rendered) is None


def test_msrvtt_draws_one_caption_of_each_test_video_by_the_seed(tmp_path):
    path = annotation(tmp_path / "a.json", videos=40)
    drawn = draw_msrvtt(path, 0)
    assert [sentence.video_id for sentence in drawn] == [f"video{7010 + n}" for n in range(40)]
    for n, sentence in enumerate(drawn):
        assert sentence.sen_id // 20 == n
        assert sentence.caption == f"caption {sentence.sen_id % 20} of {sentence.video_id}"
    assert len({sentence.sen_id % 20 for sentence in drawn}) > 10
    assert draw_msrvtt(annotation(tmp_path / "b.json", videos=40, shuffled=True), 0) == drawn
    # The draw of a video is its own: others do not move it.
    assert draw_msrvtt(annotation(tmp_path / "c.json"), 0) == drawn[:3]
    assert draw_msrvtt(path, 1) != drawn


def test_the_jobs_are_what_is_scored(tmp_path):
    path = annotation(tmp_path / "a.json")
    write_jobs(tmp_path / "jobs.jsonl", msrvtt_jobs(path, 3))
    jobs = read_jobs(tmp_path / "jobs.jsonl")
    captions = msrvtt_captions(path, 3)
    assert [job.name for job in jobs] == ["video7010.mp4", "video7011.mp4", "video7012.mp4"]
    assert len({job.index for job in jobs}) == 3
    assert {plain_name(job.name): job.prompt for job in jobs} == captions.texts
    assert read_captions(tmp_path / "jobs.jsonl").texts == captions.texts
    assert captions.origin["seed"] == 3 and captions.origin["sen_ids"].keys() == captions.texts.keys()
    assert captions.notes == ["a.json has 3 test videos: MSR-VTT has 2990"]
    assert msrvtt_captions(annotation(path, videos=2990, captions=1), 3).notes == []


@pytest.mark.parametrize(
    "content, words",
    (
        ("{", "cannot be read"),
        ("[]", "no annotations of MSR-VTT"),
        ('{"videos": [], "sentences": []}', "no video of the test split"),
        ('{"videos": [], "sentences": [{"caption": "x", "video_id": "v", "sen_id": 1}]}', "got KeyError 'v'"),
        ('{"videos": [{"video_id": "v"}], "sentences": [{"caption": "x", "video_id": "v"}]}', "got KeyError 'sen_id'"),
        (
            '{"videos": [], "sentences": [{"caption": "x", "video_id": "../v", "sen_id": 1}]}',
            "video_id '../v': wanted a",
        ),
        ('{"videos": [], "sentences": [{"caption": " ", "video_id": "v", "sen_id": 1}]}', "caption ' ' of v: wanted a"),
    ),
)
def test_what_is_no_annotation_is_refused(tmp_path, content, words):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=words):
        draw_msrvtt(tmp_path / "a.json", 0)
