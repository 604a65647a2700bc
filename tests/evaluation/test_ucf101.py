import hashlib

import pytest

from lavie.errors import DataError
from lavie.evaluation.ucf101 import CLASSES, jobs, listed_clips, prompt_of


def test_the_names_are_those_of_the_dataset():
    assert len(CLASSES) == 101 == len(set(CLASSES))
    assert hashlib.sha256("\n".join(CLASSES).encode()).hexdigest().startswith("d592e88d2224e0eb")


def test_a_prompt_has_a_space_before_each_inner_capital():
    assert prompt_of("ApplyEyeMakeup") == "Apply Eye Makeup"
    assert prompt_of("YoYo") == "Yo Yo" and prompt_of("Archery") == "Archery"


def test_there_are_10100_jobs_of_distinct_names_and_noise():
    found = list(jobs())
    assert len(found) == 10100 == len({job.name for job in found}) == len({job.index for job in found})
    assert found[101].model_dump() == {"prompt": "Apply Lipstick", "name": "ApplyLipstick/001.mp4", "index": 101}


def test_reals_are_what_the_splits_list(tmp_path):
    (tmp_path / "ApplyEyeMakeup").mkdir()
    (tmp_path / "HandstandPushups").mkdir()
    (tmp_path / "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi").touch()
    (tmp_path / "HandstandPushups/v_HandStandPushups_g01_c01.avi").touch()
    split = tmp_path / "trainlist01.txt"
    split.write_text(
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n\nHandStandPushups/v_HandStandPushups_g01_c01.avi 37\n"
    )
    assert [clip.name for clip in listed_clips(tmp_path, [split])] == [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "HandStandPushups/v_HandStandPushups_g01_c01.avi",
    ]
    split.write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n")
    with pytest.raises(DataError, match="1 videos of the splits are not there, as ApplyEyeMakeup/v_Apply"):
        listed_clips(tmp_path, [split])
    split.write_text("\n")
    with pytest.raises(DataError, match="no line names a video"):
        listed_clips(tmp_path, [split])


@pytest.mark.parametrize("name", ("/etc/hostname", "../other/v.avi", "a/../../v.avi"))
def test_a_split_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "split.txt").write_text(f"{name} 1\n")
    with pytest.raises(DataError, match=f"--split .*split.txt: {name} leads out of"):
        listed_clips(tmp_path, [tmp_path / "split.txt"])
