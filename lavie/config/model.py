"""The networks of a run: the video UNet, the autoencoder and the text encoder."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from .base import Positive, Strict

TEMPORAL_GROUPS = 32
"""Groups of the norms beside temporal convolutions, whatever norm_num_groups is (as released)."""

BY_LEVEL = ("block_out_channels", "cross_attention", "num_attention_heads", "only_cross_attention")
"""The keys of UNetConfig whose lists have an entry for each resolution level."""

PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "interpolation": {
        "in_channels": 8,
        "spatial_attention": "first_and_previous",
        "temporal_order": "after_feed_forward",
        "rotary_dim": 0,
        "relative_bias": False,
    },
    "vsr": {
        "in_channels": 7,
        "block_out_channels": (256, 512, 512, 1024),
        "cross_attention": (False, True, True, True),
        "only_cross_attention": (True, True, True, False),
        "cross_attention_dim": 1024,
        "linear_projection": True,
        "num_noise_levels": 1000,
        "max_noise_level": 350,
        "temporal_convolutions": True,
    },
}
"""The released networks by the names of their stages: each preset lists what differs from UNetConfig's defaults."""


class UNetConfig(Strict):
    """The network of one stage. The defaults are LaVie's base text-to-video network at full size."""

    input_keys: ClassVar[dict[str, str]] = {
        "preset": "base, interpolation or vsr: the released network of that stage. Its values lie under those "
        "that this section gives. A run's config.yaml has the values themselves.",
    }

    in_channels: int = 4
    """Input channels: those of the latents, and those of the stage's condition (lavie/config/stages.py). Default: the
    latents of Stable Diffusion 1.4 alone."""
    out_channels: int = 4
    """Channels of what is predicted: those of the latents. Default: Stable Diffusion 1.4's."""
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each resolution level, from the finest; multiples of norm_num_groups. Each level halves height and
    width of the one before. Default: Stable Diffusion 1.4's."""
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    """For each resolution level, from the finest: whether its blocks hold transformers, spatial and temporal. Default:
    Stable Diffusion 1.4's, which has none at the coarsest level."""
    layers_per_block: int = Field(2, ge=1)
    """Residual blocks of each level on the way down; the way up has one more. Default: Stable Diffusion 1.4's."""
    num_attention_heads: int | tuple[int, ...] = 8
    """Heads of every attention: one number for all levels, or one for each; each must divide its level's channels.
    Default: Stable Diffusion 1.4's."""
    cross_attention_dim: int = 768
    """Width of the text features. Default: that of CLIP ViT-L/14, which Stable Diffusion 1.4 reads."""
    norm_num_groups: int = Field(32, ge=1)
    """Groups of every GroupNorm of the spatial layers. Default: Stable Diffusion 1.4's."""
    only_cross_attention: bool | tuple[bool, ...] = False
    """Whether the transformers' first attention reads the text too, instead of the frame; for all levels or for each.
    The middle block always has self-attention. Default: self-attention, as in Stable Diffusion 1.4."""
    spatial_attention: Literal["own", "first_and_previous"] = "own"
    """What self-attention of a frame reads: the frame itself, or the clip's first frame and the one before it. Default:
    as the released base network."""
    linear_projection: bool = False
    """Whether transformers begin and end with linear layers instead of 1x1 convolutions. Default: as Stable Diffusion
    1.4; the x4 upscaler has them."""
    num_noise_levels: int = Field(0, ge=0)
    """Noise levels of a conditioning image that the network has an embedding of; 0: it takes none. Default: none, as
    only stage vsr has such an image."""
    max_noise_level: int | None = None
    """The highest noise level that may be asked for, 0 .. num_noise_levels - 1. Default: the last one."""
    temporal_order: Literal["before_feed_forward", "after_feed_forward"] = "before_feed_forward"
    """Where temporal attention stands in the transformer block. Default: as the released base network."""
    temporal_convolutions: bool = False
    """Whether temporal residual blocks precede the transformers, and temporal modules follow each level. Default: none,
    as in the released base network; the super-resolution network has them."""
    temporal_module: Literal["time", "space_time"] = "time"
    """What temporal attention reads: the same position in all frames, or every position of all frames, at a cost that
    grows with the square of their number (paper, Table 6, after Singer et al., 2023). Default: time, as the paper."""
    temporal_position: Literal["rope", "absolute", "none"] = "rope"
    """How temporal attention knows the order of frames, beside the relative bias: RoPE, sinusoids of the frame's number
    added to its input (paper, Tables 6 and 7), or not at all. Default: rope, as the paper."""
    rotary_dim: int = Field(32, ge=0, multiple_of=2)
    """Leading dims of each head that RoPE turns in temporal attention, at most all of them; 0 switches RoPE off.
    Default: as the released base network; the paper gives no width."""
    relative_bias: bool = True
    """Whether temporal attention adds a learned bias per relative frame distance. Default: on, as in the
    released base network."""
    norm_statistics: Literal["separate", "pooled"] = "separate"
    """What a GroupNorm averages over in a joint batch. separate: the clip pools its own frames and each image stands
    alone; pooled: the clip and its images share their statistics, as the released weights were trained. Default:
    separate, so that images train the 2-D model alone."""

    @model_validator(mode="before")
    @classmethod
    def _lay_over_preset(cls, values: Any) -> Any:
        """Replace the key `preset` by the preset's values, under the keys that are given beside it."""
        if not isinstance(values, Mapping) or "preset" not in values:
            return values
        given = {key: value for key, value in values.items() if key != "preset"}
        preset = values["preset"]
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"preset is {preset!r}: wanted one of {', '.join(PRESETS)}")

        # Lists that stand beside the preset overrule its own one by one, and all must be of one length.
        levels = len(PRESETS[preset].get("block_out_channels", cls.model_fields["block_out_channels"].default))
        for key in BY_LEVEL:
            if isinstance(given.get(key), (list, tuple)) and len(given[key]) != levels:
                raise ValueError(
                    f"preset {preset} is a network of {levels} levels, and {key} beside it has {len(given[key])}: keys "
                    "that a file gives overrule the preset, so leave either the preset or the sizes out"
                )
        return PRESETS[preset] | given

    @model_validator(mode="after")
    def _check(self) -> "UNetConfig":
        """Check that every list has an entry for each level, and that groups, heads and RoPE divide the channels."""
        # Lists by level: block_out_channels sets the number of levels.
        levels = len(self.block_out_channels)
        if len(self.cross_attention) != levels:
            raise ValueError(
                f"cross_attention has {len(self.cross_attention)} entries, "
                f"block_out_channels has {levels}: give one each"
            )
        if len(self.text_only) != levels:
            raise ValueError(f"only_cross_attention has {len(self.text_only)} entries, block_out_channels has {levels}")

        # A noise level has an embedding, or the network cannot be asked for it.
        if self.max_noise_level is not None and not 0 <= self.max_noise_level < max(1, self.num_noise_levels):
            raise ValueError(f"max_noise_level is {self.max_noise_level}: wanted 0 .. {self.num_noise_levels - 1}")

        # Heads by level, after a single number has been repeated for all of them.
        if len(self.heads) != levels:
            raise ValueError(f"num_attention_heads has {len(self.heads)} entries, block_out_channels has {levels}")

        # The channels of every level: groups and heads divide them, and RoPE turns no more than a head has.
        attention = (*self.cross_attention[:-1], True)  # the middle block attends at the width of the last level
        for channels, heads, attends in zip(self.block_out_channels, self.heads, attention, strict=True):
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels: {channels} is no multiple of norm_num_groups {self.norm_num_groups}"
                )
            if self.temporal_convolutions and channels % TEMPORAL_GROUPS:
                raise ValueError(
                    f"block_out_channels: {channels} is no multiple of {TEMPORAL_GROUPS}, the groups of every norm in "
                    "temporal_convolutions"
                )
            if attends and channels % heads:
                raise ValueError(f"block_out_channels: {channels} is no multiple of num_attention_heads {heads}")
            if attends and channels // heads < self.turned_dims:
                raise ValueError(
                    f"rotary_dim {self.rotary_dim} exceeds the head dim {channels // heads} "
                    f"({channels} channels, {heads} heads)"
                )
        # A bias is learned for pairs of frames, and attention over space and time has pairs of positions.
        if self.temporal_module == "space_time" and self.relative_bias:
            raise ValueError("temporal_module: space_time has no relative bias: set relative_bias to false")
        return self

    @property
    def turned_dims(self) -> int:
        """The dims of each head that RoPE turns; 0 without RoPE."""
        return self.rotary_dim if self.temporal_position == "rope" else 0

    @property
    def text_only(self) -> tuple[bool, ...]:
        """`only_cross_attention` of each level."""
        if isinstance(self.only_cross_attention, bool):
            return (self.only_cross_attention,) * len(self.block_out_channels)
        return self.only_cross_attention

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each level."""
        if isinstance(self.num_attention_heads, int):
            return (self.num_attention_heads,) * len(self.block_out_channels)
        return self.num_attention_heads

    @property
    def highest_noise_level(self) -> int:
        """The highest noise level that the network may be asked for; -1 if it takes none."""
        return self.num_noise_levels - 1 if self.max_noise_level is None else self.max_noise_level


class AutoencoderConfig(Strict):
    """The frozen autoencoder between pixels and latents."""

    type: Literal["diffusers", "patch"] = "diffusers"
    """diffusers: AutoencoderKL from `pretrained_model_name_or_path`/vae. patch: an orthonormal transform of square
    patches without weights, for small runs without downloads. Default: diffusers, as in the paper."""
    patch_size: int = Field(4, ge=1)
    """patch only: pixels per latent, along both axes; 1 is the identity. Default: that of configs/smoke."""
    coefficients: int | None = Field(None, ge=1)
    """patch only: how many of a patch's patch_size^2 frequencies are kept, from the lowest. Default: all, which loses
    nothing."""
    scaling_factor: Positive | tuple[Positive, ...] | None = None
    """The latents are multiplied by it, so that their standard deviation is about 1. For patch, a list has a factor for
    each coefficient, as their sizes differ. Default: the autoencoder's own (1 for patch)."""
    frames_per_call: int = Field(8, ge=1)
    """diffusers only: frames that go through the autoencoder at once. It bounds memory and changes no result. Default:
    half a base clip."""

    @model_validator(mode="after")
    def _check(self) -> "AutoencoderConfig":
        """Check that a patch has the coefficients asked for, and that there are as many scaling factors, or one."""
        if self.coefficients is not None and self.coefficients > self.patch_size**2:
            raise ValueError(f"coefficients is {self.coefficients}, a patch has {self.patch_size}^2 of them")
        if isinstance(self.scaling_factor, tuple):
            count = (self.coefficients or self.patch_size**2) if self.type == "patch" else None
            if len(self.scaling_factor) != count:
                wanted = f"one number, or {count}" if count else "one number"
                raise ValueError(f"scaling_factor is {list(self.scaling_factor)}: wanted {wanted}")
        return self


class TextEncoderConfig(Strict):
    """The frozen text encoder from a caption to features (L, D)."""

    type: Literal["clip", "hash"] = "clip"
    """clip: CLIPTextModel from `pretrained_model_name_or_path`/text_encoder. hash: a fixed random vector for each word,
    for small runs without downloads. Default: clip, as in the paper."""
    max_length: int = Field(77, ge=1)
    """Tokens of a caption, L; longer ones are cut, shorter ones padded. Default: the most that CLIP was trained for."""
