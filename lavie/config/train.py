"""The configuration of a run: every option, typed, with its default and what it means.

Option names are those of the diffusers training scripts where they have one. load.py reads a file into these types, and
reference.py prints them as docs/configuration.md.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from .add_difference import AddDifferenceConfig
from .base import LocalPath, OptionalPath, Strict
from .condition import GivenConfig
from .data import DataConfig, DegradationConfig, Weight
from .evaluation import EvalConfig
from .lora import LoraConfig
from .model import AutoencoderConfig, TextEncoderConfig, UNetConfig
from .names import SamplerName, StageName
from .profile import ProfileConfig
from .stages import STAGES, Condition, condition_channels
from .watchdog import WatchdogConfig


def _as_list(value: Any) -> Any:
    """Return a list as a file gives it: a name stands for the list of it, as in diffusers' training scripts."""
    return [value] if isinstance(value, str) else value


def _as_law(value: Any) -> Any:
    """Return a law of timesteps as a file gives it: its name stands for the law with its defaults."""
    return {"law": value} if isinstance(value, str) else value


class TimestepSampling(Strict):
    """How often each timestep of the noise schedule is trained."""

    law: Literal["uniform", "logit_normal"] = "uniform"
    """uniform: all are equally likely. logit_normal: logit(t / T) is normal, so that the middle of the schedule comes
    often and its ends rarely (Esser et al., 2024)."""
    mean: float = 0.0
    """The mean of logit(t / T) under logit_normal: 0 is the middle of the schedule, less is less noise. Default: that
    of Esser et al."""
    std: float = Field(1.0, gt=0)
    """The standard deviation of logit(t / T) under logit_normal. Default: that of Esser et al."""
    uniform_share: Weight = ((0, 0.0),)
    """The share, 0 .. 1, of timesteps that are uniform under logit_normal too: a number, or [[step, share], ...],
    linear between these steps. So the law can rule the first part of a run, and the uniform one the rest. Default:
    none."""

    @model_validator(mode="after")
    def _check(self) -> "TimestepSampling":
        """Refuse what belongs to logit_normal where nothing reads it."""
        given = self.model_fields_set & {"mean", "std", "uniform_share"}
        if self.law == "uniform" and any(getattr(self, key) != type(self).model_fields[key].default for key in given):
            raise ValueError(f"{' and '.join(sorted(given))} belong to law: logit_normal, and law is uniform")
        if any(share > 1 for _, share in self.uniform_share):
            raise ValueError(f"uniform_share is {[list(knot) for knot in self.uniform_share]}: wanted shares of 0 to 1")
        return self


LARGEST_GUIDANCE = 100.0
"""The largest scale of classifier-free guidance: people draw with 1 to 15, and beyond 30 or so colours burn out."""


class SamplingConfig(Strict):
    """How validation prompts are sampled, and how the network is sampled later unless asked otherwise."""

    scheduler: SamplerName = "ddim"
    """The sampler. Default: ddim, the released code's."""
    num_inference_steps: int = Field(50, ge=1)
    """Denoising steps. Default: the released code's."""
    guidance_scale: float = Field(7.5, ge=0, le=LARGEST_GUIDANCE)
    """Scale s of classifier-free guidance, unconditional + s (conditional - unconditional): 1 switches it off and
    halves the time, 0 draws without the caption. Default: the released base stage's."""
    negative_prompt: str = ""
    """Prompt of guidance's unconditional branch. Default: the empty caption, with which caption_dropout trains it."""
    prompt_suffix: str = ""
    """Text that `lavie generate` joins to every prompt. Default: none."""
    noise_level: int = Field(50, ge=0)
    """vsr only: noise level, 0 .. model.max_noise_level, that the low resolution gets. Default: the released code's."""


class TrainConfig(Strict):
    """The whole configuration of one training run."""

    stage: StageName = "base"
    """What the network learns: a clip from text (base), the frames between key frames (interpolation), or four times
    the height and width (vsr)."""
    output_dir: LocalPath
    """The run's folder: config, metrics, checkpoints and validation samples. Created if missing; two runs cannot share
    one."""
    seed: int = 0
    """What all random numbers of the run are drawn from: order of the data, cuts, noise, timesteps, fresh weights. Runs
    of one seed and global batch are equal on any number of ranks, up to rounding."""

    model: UNetConfig = UNetConfig()
    """The network. Default: the released base network."""
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    """The frozen autoencoder."""
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    """The frozen text encoder."""
    data: DataConfig
    """The samples, and what is made of them."""
    sampling: SamplingConfig = SamplingConfig()
    """How the network is sampled."""

    pretrained_model_name_or_path: OptionalPath = None
    """A Stable Diffusion 1.4 folder in diffusers' format (for stage vsr, of the x4 upscaler): the frozen autoencoder
    and text encoder, and the network's spatial weights. Default: none, which needs encoders without weights."""
    init_weights: OptionalPath = None
    """Where the network's weights come from instead of the folder above: a released LaVie .pt, an exported folder, a
    run's folder or one of its checkpoints; or for the spatial layers alone a Stable Diffusion folder in diffusers'
    format, or a single .safetensors or .ckpt. Default: null, the folder above; without it a fresh network."""
    extract_ema: bool = False
    """Whether the averaged weights (keys model_ema.) of single files are taken, in init_weights and add_difference,
    where a file has both; it is an error if none has. Default: no, as in diffusers, since files without them are
    usually the averaged ones."""
    add_difference: AddDifferenceConfig | None = None
    """What is added to these weights: the difference of a community checkpoint and Stable Diffusion 1.4. Default: null,
    nothing."""
    trainable: Literal["all", "temporal", "spatial", "lora"] = "all"
    """The parameters that train: all, those without a counterpart in the 2-D network (temporal), those with one
    (spatial), as for images alone, or adapters on these, with all weights of init_weights frozen (lora; paper, section
    5.6). Default: all, as the paper trains the base stage; its super-resolution trains the temporal ones."""
    lora: LoraConfig = LoraConfig()
    """`trainable: lora` only: the adapters."""

    max_train_steps: int = Field(ge=1, le=10**9)
    """Optimizer steps of the run."""
    train_batch_size: int = Field(1, ge=1)
    """Clips (each with its images) per rank and micro-batch. Default: what fits the smallest memory."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Micro-batches per optimizer step and rank: a step has train_batch_size times this times the ranks clips. Default:
    no accumulation."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of kept: about a third more work for most of
    their memory. Default: off, as small networks do not need it."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """What the network computes in: float32 (no), or bfloat16 (bf16) or float16 (fp16) with float32 masters. fp16 is
    for GPUs without bf16, and scales the loss. Default: auto, float32 on a CPU, and on a GPU bf16 or else fp16."""
    kernels: Literal["auto", "torch", "triton"] = "auto"
    """What computes temporal attention, GroupNorm and temporal convolution: plain PyTorch, or Triton kernels, with an
    error where they cannot run. Default: auto, Triton kernels where they run and PyTorch elsewhere."""
    attention: Literal["sdpa", "flash-attn"] = "sdpa"
    """What computes spatial attention: PyTorch's own choice of kernel, or the package flash-attn. Default: sdpa, which
    needs no package."""
    compile: Literal["none", "leaves"] = "none"
    """leaves: torch.compile of every residual block and transformer, which takes minutes at the start of a run and of
    every new size of clips; losses are equal up to rounding. Not with trainable lora or attention flash-attn. Default:
    none, as it has not been timed on a GPU."""
    tf32: bool = True
    """Whether a GPU multiplies float32 numbers as TF32, which has 10 bits of fraction as float16 has: in the text
    encoder, in the autoencoder of vsr, and in a network under mixed_precision no. Products in 16 bits stay as they are.
    Default: yes, as the released code samples the interpolation."""

    learning_rate: float = Field(1e-4, gt=0)
    """Step size of AdamW after the warm-up. Default: that of diffusers' training scripts."""
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    """How the rate goes on after the warm-up: constant, or along a cosine to 0 at max_train_steps. Default: the
    released code's."""
    lr_warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises linearly to learning_rate. Default: none."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with moments in float32, or in 8 bits by the package bitsandbytes (Dettmers et al., 2022), which takes 2
    bytes a parameter instead of 8. Default: adamw, which is exact."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay per step of AdamW's average of gradients. Default: that of Kingma and Ba (2015)."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay per step of AdamW's average of squared gradients. Default: that of Kingma and Ba (2015)."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """What AdamW adds to the root of the average square, against division by 0. Default: that of Kingma and Ba
    (2015)."""
    adam_weight_decay: float = Field(1e-2, ge=0)
    """Decoupled weight decay: each step takes learning_rate times this share of a weight away. Default: PyTorch's."""
    max_grad_norm: float = Field(1.0, ge=0)
    """The global norm to which gradients are clipped; 0 switches clipping off. Default: that of diffusers' training
    scripts."""
    max_skipped_steps: int = Field(10, ge=1)
    """Steps in a row that may be left out before the run ends: those whose loss or gradient is not finite, and with
    skip_spikes the spikes. Steps in which fp16 lowers the scale of the loss do not count. Default: more than a few bad
    samples cause, and far fewer than a diverged run would waste."""
    spike_threshold: float = Field(5.0, gt=0)
    """How far above those of the last 100 steps a loss or gradient norm is a spike, in standard deviations of their
    logarithms (by median and MAD, of at least a tenth). Default: where a factor of 1000 is found even among single
    clips, and chance finds nothing."""
    skip_spikes: bool = False
    """Whether a step with a spike is left out; else it is told and counted. Default: no, as clipping takes the worst
    from it, and what is rare may be worth learning."""
    use_ema: bool = True
    """Whether the run keeps an exponential moving average of the weights, which validation and sampling then use.
    Default: yes, as the released weights are such an average."""
    ema_device: Literal["auto", "cpu"] = "auto"
    """Where the average lies: beside the weights that the optimizer changes (auto), or on the CPU, which frees 4 bytes
    a parameter of the GPU and copies as many at every step. It changes no result beyond rounding. Default: auto."""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    """Decay per step of that average; it rises to this value as (1 + step) / (10 + step). Default: the released
    code's."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, or the velocity v (Salimans and Ho, 2022). Default: epsilon (paper, Eq. 3);
    the x4 upscaler predicts v."""
    timestep_sampling: Annotated[TimestepSampling, BeforeValidator(_as_law)] = TimestepSampling()
    """How timesteps are drawn: `uniform`, or `{law: logit_normal, mean: -0.3, std: 0.8}`. It changes what is trained
    often, not the noise schedule; validation keeps its own timesteps. Default: uniform, as in the paper."""
    image_loss_weight: float = Field(1.0, ge=0)
    """alpha of the joint loss L_V + alpha L_I (paper, Eq. 4). Default: our choice, as the paper gives no value."""
    caption_dropout: float = Field(0.1, ge=0, le=1)
    """Share, 0 .. 1, of captions replaced by the empty one, for classifier-free guidance. Default: the released
    code's."""
    keyframe_interval: int = Field(4, ge=2)
    """interpolation only: every n-th frame is a key frame, from which the others are to be made. Default: the
    paper's."""
    condition: Literal["none", "frames"] = "none"
    """base only: frames, for a network that is given any frames of the clip beside the text: besides text alone, it
    starts from an image, goes on from a clip, or joins two images. Its model.in_channels are twice those of the latents
    and one. Weights without these channels are extended by zeros. Default: none, the released network."""
    given: GivenConfig = GivenConfig()
    """base with condition: frames only: which frames of a training clip are given, and how often."""
    condition_noise_steps: int = Field(0, ge=0, le=1000)
    """interpolation, and base with condition: frames: the key frames or given frames are noised at a timestep drawn
    below this, which makes the network forgive flaws of the clips that it is given when sampling, as the segments of a
    long clip are given what it drew itself. Default: 0, clean frames."""
    degradation: DegradationConfig = DegradationConfig()
    """vsr only: how the low resolution is made."""
    snr_gamma: float | None = Field(None, gt=0)
    """gamma of the Min-SNR weighting of the loss (Hang et al., 2023), which proposes 5. Default: null, no weighting."""
    rescale_betas_zero_snr: bool = False
    """Whether the noise schedule is rescaled so that its last timestep has no signal (Lin et al., 2024); needs
    v_prediction. Default: no, as the released networks were trained."""

    logging_steps: int = Field(50, ge=1)
    """Steps between two lines in the log of a run without a terminal, which has at least about one a minute. Every step
    is in metrics.jsonl. Default: what a reader scrolls through."""
    report_to: Annotated[tuple[Literal["tensorboard", "wandb"], ...], BeforeValidator(_as_list)] = ("tensorboard",)
    """Where losses, samples and the config are shown while the run trains: TensorBoard's files in
    output_dir/tensorboard, and Weights & Biases, which needs the extra lavie[wandb]. A single name needs no brackets.
    [] leaves metrics.jsonl alone, which is always written. Default: TensorBoard, which needs no account."""
    checkpointing_steps: int = Field(500, ge=1)
    """Steps between checkpoints; the last step is saved too. Default: that of diffusers' training scripts."""
    save_every_minutes: float | None = Field(None, gt=0)
    """Minutes after which the run also saves, counted from the last checkpoint by the clock of rank 0: what a crash may
    cost at most, however long steps take. Default: null, by steps alone."""
    checkpoints_total_limit: int | None = Field(None, ge=1)
    """Checkpoints that are kept, the newest ones. Default: null, all."""
    checkpoints_keep_every: int | None = Field(None, ge=1)
    """Checkpoints of the multiples of this step stay beside those of checkpoints_total_limit. Default: null, none."""
    save_async: bool = True
    """Whether the run goes on while a checkpoint is written, from a copy of the state in the hosts' memory: 16 bytes a
    parameter over all ranks. Default: yes; no where that memory is short."""
    max_failed_saves: int = Field(3, ge=1)
    """Checkpoints in a row that could not be written, for a full disk or a quota, after which the run ends. Default: a
    disk is often full for a while only."""
    verify_checkpoint: Literal["full", "sizes"] = "full"
    """What is compared with the manifest before a checkpoint is loaded: the hash of every file, which reads it once
    more, or its size. Default: full, as a single flipped bit spoils a run without a word."""
    allow_dtype_change: bool = False
    """Whether a run may go on from a checkpoint that was trained in another mixed_precision. The float32 weights and
    their moments are the same in all. Default: no, as later losses differ."""
    resume_from_checkpoint: OptionalPath = None
    """"latest", or a checkpoint folder: where the run goes on, or an error if nothing can be resumed. "latest" is the
    newest checkpoint of output_dir that is whole. "auto" is "latest", but starts at step 0 where output_dir has no
    checkpoint, not even a damaged one: for jobs that a scheduler starts again. Default: null, a run from step 0."""
    validation_steps: int = Field(500, ge=1)
    """Steps between validations; the last step is validated too. Default: with every checkpoint."""
    validate_at_start: bool = False
    """Whether the run is validated before its first step too, as step 0: what the weights it starts from can do. A
    resumed run does not repeat it. Default: no, as fresh weights draw noise."""
    validation_batches: int = Field(4, ge=1)
    """Micro-batches of data.validation per rank for the validation loss, with noise and timesteps that stay the same.
    Default: a few, as every validation reads them."""
    validation_prompts: tuple[str, ...] = ()
    """base only: prompts that are sampled at every validation, into output_dir/samples. Default: none."""
    eval: EvalConfig = EvalConfig()
    """base only: what is measured of samples while the run trains."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """How long a rank may be at one thing before the run counts as hung."""
    profile: ProfileConfig = ProfileConfig()
    """Which steps are recorded operation by operation."""

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        """Check what sections ask of one another: encoders of weights, the network of channels, sizes of the stride."""
        # PyTorch seeds generators with 64 bits.
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: wanted a number of 64 bits")

        # The noise schedule: a timestep without signal teaches nothing to a network that predicts the noise.
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr leaves no signal at the last timestep, where prediction_type epsilon has "
                "nothing to learn: set prediction_type to v_prediction"
            )

        # Encoders with weights need a folder to read them from.
        if self.pretrained_model_name_or_path is None:
            for section in ("autoencoder", "text_encoder"):
                kind = getattr(self, section).type
                if kind in ("diffusers", "clip"):
                    raise ValueError(
                        f"{section}.type {kind} needs pretrained_model_name_or_path: "
                        "a Stable Diffusion 1.4 folder in diffusers' format"
                    )

        # A difference is taken of two networks.
        if self.add_difference is not None:
            if self.add_difference.original is None and self.pretrained_model_name_or_path is None:
                raise ValueError(
                    "add_difference.original is null, and so is pretrained_model_name_or_path: one of them has to name "
                    "the Stable Diffusion 1.4 that add_difference.weights was made from"
                )
            if self.init_weights is None and self.pretrained_model_name_or_path is None:
                raise ValueError("add_difference needs weights to add to: set init_weights, as to a released LaVie .pt")

        # Adapters change weights that a checkpoint only names, so these must lie somewhere.
        if self.trainable == "lora" and self.init_weights is None:
            raise ValueError(
                "trainable is lora and init_weights is null: set init_weights to the weights that the adapters change, "
                "as a run or an exported folder"
            )
        if self.trainable != "lora" and self.lora != LoraConfig():
            raise ValueError(f"lora is set, and trainable is {self.trainable}: set that to lora, or leave lora out")

        # What is compiled must be whole graphs.
        if self.compile == "leaves":
            for key, other in (("trainable", "lora"), ("attention", "flash-attn")):
                if getattr(self, key) == other:
                    raise ValueError(
                        f"compile is leaves and {key} is {other}, which torch.compile does not see through: set "
                        f"compile to none, or another {key}"
                    )

        # The network takes the latents and the stage's condition, and gives latents.
        channels = self.latent_channels
        wanted = (channels + condition_channels(self.conditioning, channels), channels)
        if (self.model.in_channels, self.model.out_channels) != wanted:
            stage = f"stage {self.stage}" + (" with condition: frames" if self.condition == "frames" else "")
            raise ValueError(
                f"model.in_channels and model.out_channels are {self.model.in_channels} and {self.model.out_channels}, "
                f"but {stage} with an autoencoder of {channels} channels needs {wanted[0]} and {wanted[1]}"
            )

        # Samples are measured against held-out clips, and drawn from their captions.
        if self.eval.steps and (self.stage != "base" or not self.data.validation):
            raise ValueError(
                f"eval.steps is set: it needs stage base and data.validation, and got stage {self.stage}"
                + ("" if self.data.validation else " without data.validation")
            )

        # What the stage asks of all sections.
        self._check_stage()

        # Every size of a clip must be a whole number of latents.
        for size in (self.data.size, *self.data.buckets):
            if size.height % self.latent_stride or size.width % self.latent_stride:
                keys = "data.height x data.width"
                where = f"data.buckets: height x width of {size.name}" if size in self.data.buckets else keys
                raise ValueError(
                    f"{where} is {size.height} x {size.width}: both must be multiples of {self.latent_stride}"
                )
        return self

    def _check_stage(self) -> None:
        """Raise ValueError at a setting that the stage cannot use, or that contradicts its condition."""
        stage, data = STAGES[self.stage], self.data

        # Frames are given to the first stage, and some of its clip must be left to make.
        if self.condition == "frames":
            if stage.condition != "none":
                raise ValueError(
                    f"condition is frames: only stage base is given frames of its own clip, stage {self.stage} has its "
                    "own condition; set it to none"
                )
            for size in (data.size, *data.buckets):
                if size.num_frames < 3:
                    key = f"data.buckets: num_frames of {size.name}" if size in data.buckets else "data.num_frames"
                    raise ValueError(
                        f"{key} is {size.num_frames}: condition frames needs clips of at least 3 frames, so that one "
                        "lies between the first and the last"
                    )
        elif "given" in self.model_fields_set and self.given != GivenConfig():
            raise ValueError("given is set, which says which frames are given, and condition is none: set it to frames")

        # Some stages train on clips without images beside them.
        if data.num_images and not stage.joins_images:
            raise ValueError(
                f"data.num_images is {data.num_images}: stage {self.stage} trains on clips alone, set it to 0"
            )

        # Prompts are drawn by a stage that needs nothing but a prompt.
        if self.validation_prompts and not stage.draws_from_prompt:
            raise ValueError(f"validation_prompts are for stage base: stage {self.stage} is judged by `lavie score`")

        # Clips of every size begin and end with a key frame, where the stage fills the time between key frames.
        for size in (data.size, *data.buckets):
            key = f"data.buckets: num_frames of {size.name}" if size in data.buckets else "data.num_frames"
            stage.require_frames(size.num_frames, self.keyframe_interval, key)

        # A cache holds latents, and a low resolution is made from pixels.
        if data.cache is not None and not stage.cacheable:
            raise ValueError(
                f"data.cache is {data.cache}: stage {self.stage} degrades the pixels of each visit, set it to null"
            )

        # A low resolution has a noise level that the network knows, and as many pixels as the latents have positions.
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
    def conditioning(self) -> Condition:
        """What the run's network is given beside the text."""
        return "frames" if self.condition == "frames" else STAGES[self.stage].condition

    @property
    def low_resolution(self) -> DegradationConfig | None:
        """How the batches' low resolution is made; None for a stage without one."""
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
