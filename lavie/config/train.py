"""The configuration of a run: every option, typed, with its default and what it means.

Option names are those of the diffusers training scripts where they have one. config_file.py reads them.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from .base import Strict
from .data import DataConfig, DegradationConfig
from .model import AutoencoderConfig, TextEncoderConfig, UNetConfig
from .stages import STAGES, StageName

SamplerName = Literal["ddim", "ddpm", "euler", "dpm++", "unipc"]


class SamplingConfig(Strict):
    """How validation samples are drawn."""

    scheduler: SamplerName = "ddim"
    num_inference_steps: int = Field(50, ge=1)
    guidance_scale: float = Field(7.5, ge=0)
    negative_prompt: str = ""
    """In place of the empty caption, where guidance leads away from."""
    prompt_suffix: str = ""
    """Joined to every prompt by `lavie generate`."""
    noise_level: int = Field(50, ge=0)
    """vsr only: the noise that the low resolution gets, of 0 .. model.max_noise_level."""


def _unquoted_no(value: Any) -> Any:
    return "no" if value is False else value  # as YAML reads it


class TrainConfig(Strict):
    """One training run."""

    stage: StageName = "base"
    output_dir: str
    seed: int = 0

    model: UNetConfig = UNetConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    data: DataConfig
    sampling: SamplingConfig = SamplingConfig()

    pretrained_model_name_or_path: str | None = None
    """A Stable Diffusion 1.4 folder (diffusers): frozen autoencoder and text encoder, the network's spatial weights."""
    init_weights: str | None = None
    """Where the network starts, if not from the folder above: a released LaVie .pt, an exported folder, or a run's."""
    trainable: Literal["all", "temporal"] = "all"

    max_train_steps: int = Field(ge=1)
    train_batch_size: int = Field(1, ge=1)
    """Clips (each with its images) per rank and micro-batch."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    gradient_checkpointing: bool = False
    mixed_precision: Annotated[Literal["auto", "no", "bf16"], BeforeValidator(_unquoted_no)] = "auto"
    """auto: bf16 on a GPU, float32 on a CPU."""
    kernels: Literal["auto", "torch", "triton"] = "auto"
    """Temporal attention, GroupNorm and temporal convolution: Triton kernels where they run, plain PyTorch, or an error
    where the kernels cannot run."""
    attention: Literal["sdpa", "flash-attn"] = "sdpa"
    """Spatial attention: PyTorch's own choice of kernel, or the package flash-attn."""

    learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: int = Field(0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    adam_weight_decay: float = Field(1e-2, ge=0)
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are clipped to this global norm; 0 switches clipping off."""
    use_ema: bool = True
    ema_decay: float = Field(0.9999, ge=0, lt=1)

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    image_loss_weight: float = Field(1.0, ge=0)
    """alpha of the joint loss L_V + alpha L_I (paper, Eq. 4)."""
    caption_dropout: float = Field(0.1, ge=0, le=1)
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    keyframe_interval: int = Field(4, ge=2)
    """interpolation only: every n-th frame is a key frame, from which the others are to be made."""
    condition_noise_steps: int = Field(0, ge=0, le=1000)
    """interpolation only: key frames are noised at a timestep drawn below this; 0 keeps them clean."""
    degradation: DegradationConfig = DegradationConfig()
    """vsr only."""
    snr_gamma: float | None = Field(None, gt=0)
    """Min-SNR-gamma weighting of the loss; off by default."""
    rescale_betas_zero_snr: bool = False

    checkpointing_steps: int = Field(500, ge=1)
    checkpoints_total_limit: int | None = Field(None, ge=1)
    resume_from_checkpoint: str | None = None
    """"latest", or a checkpoint folder. If given and nothing can be resumed, the run stops with an error. "auto" is
    "latest", but starts at step 0 where output_dir has no checkpoint: for jobs that a scheduler starts again."""
    validation_steps: int = Field(500, ge=1)
    validation_batches: int = Field(4, ge=1)
    """Clips per rank for the validation loss."""
    validation_prompts: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr leaves no signal at the last timestep, where prediction_type epsilon has "
                "nothing to learn: set prediction_type to v_prediction"
            )
        if self.pretrained_model_name_or_path is None:
            for section in ("autoencoder", "text_encoder"):
                kind = getattr(self, section).type
                if kind in ("diffusers", "clip"):
                    raise ValueError(
                        f"{section}.type {kind} needs pretrained_model_name_or_path: "
                        "a Stable Diffusion 1.4 folder in diffusers' format"
                    )
        channels = self.latent_channels
        wanted = (channels + STAGES[self.stage].condition_channels(channels), channels)
        if (self.model.in_channels, self.model.out_channels) != wanted:
            raise ValueError(
                f"model.in_channels and model.out_channels are {self.model.in_channels} and {self.model.out_channels}, "
                f"but stage {self.stage} with an autoencoder of {channels} channels needs {wanted[0]} and {wanted[1]}"
            )
        self._check_stage()
        for size in (self.data.size, *self.data.buckets):
            if size.height % self.latent_stride or size.width % self.latent_stride:
                keys = "data.height x data.width"
                where = f"data.buckets: height x width of {size.name}" if size in self.data.buckets else keys
                raise ValueError(
                    f"{where} is {size.height} x {size.width}: both must be multiples of {self.latent_stride}"
                )
        return self

    def _check_stage(self) -> None:
        stage, data = STAGES[self.stage], self.data
        if data.num_images and not stage.joins_images:
            raise ValueError(
                f"data.num_images is {data.num_images}: stage {self.stage} trains on clips alone, set it to 0"
            )
        if self.validation_prompts and not stage.draws_from_prompt:
            raise ValueError(f"validation_prompts are for stage base: stage {self.stage} is judged by `lavie score`")
        for size in (data.size, *data.buckets):
            key = f"data.buckets: num_frames of {size.name}" if size in data.buckets else "data.num_frames"
            stage.require_frames(size.num_frames, self.keyframe_interval, key)
        if data.cache is not None and not stage.cacheable:
            raise ValueError(
                f"data.cache is {data.cache}: stage {self.stage} degrades the pixels of each visit, set it to null"
            )
        if stage.condition == "low_resolution":
            if not self.model.num_noise_levels:
                raise ValueError(
                    f"model.num_noise_levels is 0: stage {self.stage} tells the network the low resolution's noise"
                )
            if self.degradation.scale != self.latent_stride:
                raise ValueError(
                    f"degradation.scale is {self.degradation.scale}: the low resolution joins the latents, so it must "
                    f"be the autoencoder's {self.latent_stride} pixels per latent"
                )
            if self.sampling.noise_level > self.model.highest_noise_level:
                raise ValueError(
                    f"sampling.noise_level is {self.sampling.noise_level}, above model.max_noise_level "
                    f"{self.model.highest_noise_level}"
                )

    @property
    def low_resolution(self) -> DegradationConfig | None:
        """How batches come by their low resolution, if the stage wants one."""
        return self.degradation if STAGES[self.stage].condition == "low_resolution" else None

    @property
    def latent_stride(self) -> int:
        """Pixels per latent along one axis."""
        if self.autoencoder.type == "patch":
            return self.autoencoder.patch_size
        return STAGES[self.stage].autoencoder_stride

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        autoencoder = self.autoencoder
        if autoencoder.type == "patch":
            return 3 * (autoencoder.coefficients or autoencoder.patch_size**2)
        return 4
