"""The ablations of the paper: its Tables 6 and 7 and its Figures 10 and 11, on rendered clips."""

from itertools import product

from ...data.prepare.synthetic import COLOURS, DIRECTIONS, HELD_OUT, SHAPES
from .measures import clip_measures, image_measures, longer_measures, quality_measures
from .plan import LOSS, MS_PER_STEP, Ablation, Arm, Case, Claim, Draw, RenderedSet

SEEN = ("red", "green", "blue", "yellow")
"""Figure 11: the colours of the clips. Images have all six."""
UNSEEN = tuple(colour for colour in COLOURS if colour not in SEEN)
"""Figure 11: the colours that images alone have."""
STILLS = ("data.num_frames=1", "data.num_images=0", "data.moving_images=1", "data.crop=patch", "trainable=spatial")
"""Training of the 2-D network on images alone: each is a clip of one frame, and the temporal layers stay identities."""
NO_BIAS = "model.relative_bias=false"
"""The relative bias would tell every arm of positions of its own."""
UNIFORM = "timestep_sampling=uniform"
"""Arms of few steps see all timesteps: the small config would spend them on the band where direction is decided."""
NO_LOSSES = "data.validation=[]"
"""Losses of arms that train on other things do not compare."""

COLOUR = "share of samples whose colour is the one asked for"
DIRECTION = "share of clips that move in the direction asked for; 25 % is chance"


def _images(colours: tuple[str, ...]) -> list[Case]:
    """Return every image of some colours."""
    return [(colour, shape, None) for colour, shape in product(colours, SHAPES)]


def _clips(colours: tuple[str, ...]) -> list[Case]:
    """Return every moving clip of some colours."""
    return [*product(colours, SHAPES, DIRECTIONS)]


TABLE6 = Ablation(
    name="table6",
    title="Table 6: temporal modules",
    paper="FVD on UCF101 after equal iterations: RoPE 611, absolute positions 625, spatial-temporal self-attention "
    "635; the last one is slower to train and looks no better. One run each.",
    here="Differences of 2 to 4 % in one run each. Here the loss on held-out clips takes the place of FVD. "
    "Spatial-temporal attention reads all positions of all frames at once, with RoPE by the frame's number: "
    "the paper's words fit this "
    "reading, Singer et al. factorise it. The arm without positions is a control: time has no direction there, so "
    "what does not tell it from the others cannot tell them from one another. The relative bias is off in all arms.",
    common=(NO_BIAS,),
    arms={
        "rope": Arm("RoPE"),
        "absolute": Arm("absolute", ("model.temporal_position=absolute",)),
        "space_time": Arm("space-time", ("model.temporal_module=space_time",)),
        "none": Arm("no positions", ("model.temporal_position=none",)),
    },
    draws={"clips": Draw(HELD_OUT, clip_measures)},
    measures={"colour": COLOUR, "direction": DIRECTION},
    claims=(
        Claim("RoPE fits held-out clips better than absolute positions", LOSS, "rope", "absolute", lower=True),
        Claim("RoPE fits held-out clips better than space-time attention", LOSS, "rope", "space_time", lower=True),
        Claim("A step with space-time attention takes longer", MS_PER_STEP, "rope", "space_time", lower=True),
        Claim("RoPE gets more directions right than absolute positions", "clips.direction", "rope", "absolute"),
        Claim("RoPE gets more directions right than space-time attention", "clips.direction", "rope", "space_time"),
        Claim("Control: RoPE gets more directions right than no positions", "clips.direction", "rope", "none"),
    ),
)

TABLE7 = Ablation(
    name="table7",
    title="Table 7: clips longer than the trained ones",
    paper="Trained on 16 frames and sampled at 32: subject consistency .96 with RoPE and .90 with absolute "
    "positions, motion smoothness .93 and .62.",
    here="Trained at n frames (6 in the small config) and sampled at 2 n: the truth is measured behind frame n. "
    "Shapes move slowly, .2 to .3 of the frame in a trained clip, so that they are still in the frame at its "
    "double length. Absolute "
    "positions are sinusoids of the frame's number, which go on behind the trained length: these numbers were never "
    "trained. The paper does not say what its absolute positions do there. The relative bias is off in both arms.",
    common=(NO_BIAS,),
    sets={"clips": RenderedSet(options={"travel": (0.2, 0.3)})},
    arms={"rope": Arm("RoPE"), "absolute": Arm("absolute", ("model.temporal_position=absolute",))},
    draws={"trained": Draw(HELD_OUT, clip_measures), "double": Draw(HELD_OUT, longer_measures, length=2)},
    measures={
        "colour": COLOUR + ", behind the trained length where clips are double",
        "direction": DIRECTION + ", behind the trained length where clips are double",
        "first_colour": "the same in the frames before that",
        "first_direction": "the same in the frames before that",
        "area_kept": "smaller over larger of the object's median areas before and behind the trained length",
        "unsteadiness": "root mean square of the second differences of the object's centre behind the trained "
        "length, in sides of the frame per frame squared",
    },
    claims=(
        Claim("RoPE keeps the subject: colour behind the trained length", "double.colour", "rope", "absolute"),
        Claim("RoPE keeps the subject: area behind the trained length", "double.area_kept", "rope", "absolute"),
        Claim(
            "RoPE moves more smoothly behind the trained length", "double.unsteadiness", "rope", "absolute", lower=True
        ),
        Claim("RoPE keeps the direction behind the trained length", "double.direction", "rope", "absolute"),
    ),
)

FIG11 = Ablation(
    name="fig11",
    title="Figure 11: what trains, and on what",
    paper="Pictures of a teddy bear, a concept that the images know and the clips hardly show: (a) training all "
    "weights on clips forgets it, (b) training the temporal layers alone draws poorly, (c) joint training on "
    "clips and images keeps "
    "it and moves it.",
    here="Images of six colours, clips of four. Each seed pretrains the 2-D network on images, and the three arms "
    "go on from it. Images of the two missing colours show forgetting, clips of them transfer.",
    common=(UNIFORM, NO_LOSSES),
    sets={
        "images": RenderedSet(clips=0, images=480, size=1.0),
        "clips": RenderedSet(options={"video_colours": SEEN}),
    },
    arms={
        "pretrained": Arm("images alone", (*STILLS, "train_batch_size=16"), data="images", steps=0.5),
        "video": Arm("(a) all, clips alone", ("data.num_images=0",), start="pretrained", steps=0.5),
        "temporal": Arm(
            "(b) temporal, clips alone", ("data.num_images=0", "trainable=temporal"), start="pretrained", steps=0.5
        ),
        "joint": Arm("(c) all, clips and images", ("data.num_images=1",), start="pretrained", steps=0.5),
    },
    draws={
        "images_unseen": Draw(_images(UNSEEN), image_measures, times=8, length=0),
        "images_seen": Draw(_images(SEEN), image_measures, times=2, length=0),
        "clips_unseen": Draw(_clips(UNSEEN), clip_measures, times=2),
        "clips_seen": Draw(_clips(SEEN), clip_measures, times=1),
    },
    measures={
        "colour": COLOUR + ": of images or clips of the two colours that no clip shows (unseen), or of the four others",
        "direction": DIRECTION + ", of the same clips",
    },
    claims=(
        Claim(
            "Joint training keeps at least 80 % on images of the missing colours",
            "images_unseen.colour",
            "joint",
            margin=0.8,
        ),
        Claim(
            "All weights on clips alone lose at least 30 points more",
            "images_unseen.colour",
            "joint",
            "video",
            margin=0.3,
        ),
        Claim(
            "Joint training carries the missing colours into clips, better than (a)",
            "clips_unseen.colour",
            "joint",
            "video",
        ),
        Claim(
            "Joint training carries the missing colours into clips, better than (b)",
            "clips_unseen.colour",
            "joint",
            "temporal",
        ),
        Claim(
            "Joint training moves the missing colours better than (b)", "clips_unseen.direction", "joint", "temporal"
        ),
    ),
)

FIG10 = Ablation(
    name="fig10",
    title="Figure 10: quality tuning",
    paper="After a second, short training on a small set of high quality, clips have a higher aesthetic level and "
    "higher image quality; motion is kept.",
    here="The first training sees clips and images rendered at a third of the size and enlarged. Both arms go on "
    "from it for a sixth of the steps: on 5 % as many clips at full size, or, as a control, on the same "
    "degraded ones.",
    common=(UNIFORM, NO_LOSSES),
    sets={"degraded": RenderedSet(size=1 / 3), "clean": RenderedSet(clips=40, images=12)},
    arms={
        "pretrained": Arm("degraded", data="degraded"),
        "tuned": Arm("then 5 % clean", data="clean", start="pretrained", steps=1 / 6),
        "longer": Arm("then degraded again", data="degraded", start="pretrained", steps=1 / 6),
    },
    draws={"clips": Draw(HELD_OUT, quality_measures)},
    measures={
        "colour": COLOUR,
        "direction": DIRECTION,
        "sharpness": "99th percentile of grey's gradient, over that of a rendered clip of the caption; noise raises it "
        "too, so it counts only where colours are right",
    },
    claims=(
        Claim("Tuning on clean clips makes edges sharper", "clips.sharpness", "tuned", "longer"),
        Claim("Colour is kept, less 10 points at most", "clips.colour", "tuned", "longer", margin=-0.1),
        Claim("Direction is kept, less 10 points at most", "clips.direction", "tuned", "longer", margin=-0.1),
    ),
)

ABLATIONS = {ablation.name: ablation for ablation in (TABLE6, TABLE7, FIG10, FIG11)}
"""By the names of the commands."""
