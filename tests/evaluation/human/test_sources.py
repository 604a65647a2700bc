import json

import pytest

from lavie.errors import ConfigError, DataError
from lavie.evaluation.human.sources import Item, find_sources, named_folders


@pytest.fixture
def folders(tmp_path):
    """Two models with four clips that nothing opens."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number:05d}.mp4").write_bytes(b"")
    return tmp_path


def find(folder, prompts):
    return find_sources(named_folders([str(folder / "a"), str(folder / "b")]), folder / prompts)


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_prompts_of_a_text_take_clips_in_order(folders):
    (folders / "p.txt").write_text("one\n\ntwo\n")
    found = find(folders, "p.txt")
    assert found.items == [Item("one", 0), Item("one", 1), Item("two", 0), Item("two", 1)]
    assert [clip.name for clip in found.clips["b"]] == [f"{n:05d}.mp4" for n in range(4)]


def test_prompts_of_a_list_take_clips_by_name(folders):
    """As `lavie sample` writes prompts.jsonl, without endings, and takes --jobs, with them."""
    (folders / "b/00003.mp4").rename(folders / "b/00003.webm")
    records = [{"prompt": "two", "name": "00003", "index": 3}, {"prompt": "one", "name": "00000.mp4", "index": 0}]
    lines(folders / "p.jsonl", *records)
    found = find(folders, "p.jsonl")
    assert found.items == [Item("two", 0), Item("one", 0)]
    assert [clip.name for clip in found.clips["b"]] == ["00003.webm", "00000.mp4"]
    assert found.passed == {"a": 2, "b": 2}


def test_models_have_names(folders):
    assert list(named_folders([f"ours={folders / 'a'}", str(folders / "b")])) == ["ours", "b"]
    with pytest.raises(ConfigError, match="wanted a name that no other model has"):
        named_folders([str(folders / "a"), f"a={folders / 'b'}"])
    for name in ("a\nb", " ", "a\tb"):
        with pytest.raises(ConfigError, match="wanted a name that no other model has, of letters on one line"):
            named_folders([f"{name}={folders / 'a'}", str(folders / "b")])
    with pytest.raises(ConfigError, match="wanted two or more"):
        named_folders([str(folders / "a")])


def test_numbers_that_do_not_fit_are_told(folders):
    (folders / "p.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(DataError, match=r"a 4, b 4; .*p\.txt has 3 prompts"):
        find(folders, "p.txt")
    (folders / "b/00000.mp4").unlink()
    (folders / "p.txt").write_text("one\n")
    with pytest.raises(DataError, match="a 4, b 3"):
        find(folders, "p.txt")


def test_a_missing_clip_is_named(folders):
    lines(folders / "p.jsonl", {"prompt": "x", "name": "00009"})
    with pytest.raises(DataError, match="a: 1 of 1 samples have no clip, as 00009"):
        find(folders, "p.jsonl")


def test_two_clips_of_one_sample_are_refused(folders):
    (folders / "b/00001.mov").write_bytes(b"")
    lines(folders / "p.jsonl", {"prompt": "x", "name": "00000"})
    assert find(folders, "p.jsonl").passed == {"a": 3, "b": 4}
    lines(folders / "p.jsonl", {"prompt": "x", "name": "00001"})
    with pytest.raises(DataError, match=r"b: 00001\.mov and 00001\.mp4 are of one sample: keep one of them"):
        find(folders, "p.jsonl")


def test_a_folder_that_shows_other_prompts_is_refused(folders):
    (folders / "p.txt").write_text("one\ntwo\nthree\nfour\n")
    lines(folders / "b/prompts.jsonl", *({"prompt": p, "name": f"{n:05d}"} for n, p in enumerate("abcd")))
    with pytest.raises(DataError, match=r"b: 00000\.mp4 shows 'a'.*where --prompts has 'one'"):
        find(folders, "p.txt")


@pytest.mark.parametrize(
    "text", ("{", "[]", '{"prompt": "x"}', '{"prompt": 3, "name": "x"}', '{"prompt": "", "name": 3}')
)
def test_a_line_that_is_no_sample_is_named(folders, text):
    (folders / "p.jsonl").write_text(text + "\n")
    with pytest.raises(DataError, match=r"^--prompts .*p\.jsonl, line 1"):
        find(folders, "p.jsonl")


def test_no_prompts_are_refused(folders):
    (folders / "p.txt").write_text("\n")
    (folders / "p.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="no line has a prompt"):
        find(folders, "p.txt")
    with pytest.raises(DataError, match="no row has a caption"):
        find(folders, "p.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        find(folders, "q.txt")
