"""The UCF101 protocol of LaVie's paper (5.4): 101 class names as prompts, 100 samples of each, and its splits.

A prompt is the class name with a space before each inner capital: "Apply Eye Makeup". The paper does not say which real
clips it compares with; all of both splits stand in for them, 13,320 of split 1.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import DataError
from ..inference.jobs import Job
from .clip_source import Clip, VideoClip

NAMES = """
ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball
BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling BoxingPunchingBag
BoxingSpeedBag BreastStroke BrushingTeeth CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen
Diving Drumming Fencing FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut HammerThrow
Hammering HandStandPushups HandstandWalking HeadMassage HighJump HorseRace HorseRiding HulaHoop IceDancing
JavelinThrow JugglingBalls JumpRope JumpingJack Kayaking Knitting LongJump Lunges MilitaryParade Mixing
MoppingFloor Nunchucks ParallelBars PizzaTossing PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar
PlayingPiano PlayingSitar PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting
RockClimbingIndoor RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing Skijet SkyDiving
SoccerJuggling SoccerPenalty StillRings SumoWrestling Surfing Swing TableTennisShot TaiChi TennisSwing
ThrowDiscus TrampolineJumping Typing UnevenBars VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
"""
CLASSES = tuple(NAMES.split())
"""The classes of UCF101, in the dataset's order, as its file names have them."""
SAMPLES = 100
"""Samples of each class."""
FOLDERS = {"HandStandPushups": "HandstandPushups"}
"""Classes whose folder is spelt in another way than their files."""


def prompt_of(name: str) -> str:
    """Return the prompt of a class: a space before each inner capital."""
    return re.sub(r"(?<=.)([A-Z])", r" \1", name)


def jobs(samples: int = SAMPLES) -> Iterator[Job]:
    """Yield what is to be drawn: `samples` clips of each class, as ApplyEyeMakeup/000.mp4."""
    for number, name in enumerate(CLASSES):
        for sample in range(samples):
            yield Job(prompt=prompt_of(name), name=f"{name}/{sample:03d}.mp4", index=number * samples + sample)


def listed_clips(dataset: Path, splits: Sequence[Path]) -> list[Clip]:
    """Return the real clips that split files list, as `trainlist01.txt` and `testlist01.txt` do.

    Args:
        dataset: the folder UCF-101, with a folder of each class.
        splits: text files of lines such as `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`.

    Raises:
        DataError: a split cannot be read, or lists a video that is not there, or not in the folder.
    """
    clips: dict[str, Clip] = {}
    missing = []
    for split in splits:
        try:
            lines = split.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--split {split}: cannot be read: {error}") from None
        for line in filter(None, map(str.strip, lines)):
            name = line.split()[0]
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise DataError(f"--split {split}: {name} leads out of {dataset}: wanted names of its videos")
            folder, _, file = name.partition("/")
            paths = [dataset / name, dataset / FOLDERS.get(folder, folder) / file]
            path = next((path for path in paths if path.is_file()), None)
            if path is None:
                missing.append(name)
            else:
                clips[name] = VideoClip(name, path)
    if missing:
        raise DataError(f"{dataset}: {len(missing)} videos of the splits are not there, as {missing[0]}")
    if not clips:
        raise DataError(f"{', '.join(map(str, splits))}: no line names a video")
    return list(clips.values())
