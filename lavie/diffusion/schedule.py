"""One noise schedule for training and for sampling: how much signal and noise x_t holds at timestep t.

x_t = a_t x_0 + s_t noise, with a_t^2 = alphas_cumprod[t] and s_t^2 = 1 - a_t^2 (Ho et al. 2020, Eq. 4; LaVie, Sec. 3).
"""

from typing import Any, Literal

import torch
from torch import Tensor

from ..carry import carry
from ..config.train import TrainConfig
from ..errors import ConfigError

NUM_TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02
"""The first and the last beta of the released base network; Stable Diffusion 1.4 itself has another schedule."""

PredictionType = Literal["epsilon", "v_prediction"]
BetaSchedule = Literal["linear", "scaled_linear"]
"""linear: betas are equally spaced; scaled_linear, in Stable Diffusion's words: their square roots are."""


class NoiseSchedule:
    """The noise of 1000 timesteps, with betas from 1e-4 to 0.02, and what the network predicts under it.

    Every method takes x_t, x_0, noise and outputs of one shape (B, ...) in any float dtype, and timesteps int64 (B,) in
    0 .. 999 on the same device. They compute in float32 (float64 for float64 inputs) and return the dtype of their
    first argument.

    Attributes:
        betas: float32 (1000,), on the CPU.
        alphas_cumprod: float32 (1000,), on the CPU: the share of signal in the variance of x_t, falling.
        prediction_type: "epsilon" (the noise) or "v_prediction" (Salimans and Ho 2022: a_t noise - s_t x_0).
        rescale_betas_zero_snr: whether the last timestep is pure noise (Lin et al. 2024, Algorithm 1).
    """

    def __init__(
        self,
        prediction_type: PredictionType = "epsilon",
        rescale_betas_zero_snr: bool = False,
        *,
        beta_schedule: BetaSchedule = "linear",
    ) -> None:
        """Compute the tables of the schedule.

        Raises:
            ConfigError: the prediction type is unknown, or cannot go with a last timestep without signal.
        """
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ConfigError(f"prediction_type: got {prediction_type!r}, wanted epsilon or v_prediction")
        if rescale_betas_zero_snr and prediction_type == "epsilon":
            raise ConfigError(
                "rescale_betas_zero_snr is true and prediction_type is epsilon: the last timestep is pure noise, from "
                "which no x_0 follows; set prediction_type to v_prediction"
            )

        self.prediction_type = prediction_type
        self.rescale_betas_zero_snr = rescale_betas_zero_snr
        self.beta_schedule = beta_schedule

        # A scaled_linear schedule is linear in the square roots of the betas.
        power = 1.0 if beta_schedule == "linear" else 2.0
        ends = BETA_START ** (1 / power), BETA_END ** (1 / power)
        betas = torch.linspace(*ends, NUM_TRAIN_TIMESTEPS, dtype=torch.float64) ** power
        if rescale_betas_zero_snr:
            betas = zero_terminal_snr(betas)
        alphas_cumprod = (1 - betas).cumprod(0)
        self.betas = betas.float()
        self.alphas_cumprod = alphas_cumprod.float()

        # From float64: in float32, 1 - alphas_cumprod keeps only four digits at the first timesteps.
        self._signal_and_noise = torch.stack([alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()])
        self._by_device: dict[torch.device, Tensor] = {}

    @classmethod
    def from_config(cls, config: TrainConfig) -> "NoiseSchedule":
        """Return the schedule of a run: its `prediction_type` and `rescale_betas_zero_snr`."""
        return cls(config.prediction_type, config.rescale_betas_zero_snr)

    @classmethod
    def of_low_resolution(cls) -> "NoiseSchedule":
        """Return the schedule of the noise that super-resolution adds to its condition.

        It is that of Stable Diffusion's x4 upscaler. A noise level is a timestep of this schedule.
        """
        return cls(beta_schedule="scaled_linear")

    @property
    def num_train_timesteps(self) -> int:
        """Number of timesteps, which run from 0 (least noise) to this number - 1."""
        return NUM_TRAIN_TIMESTEPS

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = a_t x_0 + s_t noise."""
        a, s = self._coefficients(x0, t)
        return (a * x0 + s * noise).to(x0.dtype)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the output wanted for `add_noise(x0, noise, t)`: the noise, or v = a_t noise - s_t x_0."""
        if self.prediction_type == "epsilon":
            return noise.to(x0.dtype)
        a, s = self._coefficients(x0, t)
        return (a * noise - s * x0).to(x0.dtype)

    def denoised(self, x_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that an output of the network stands for.

        From epsilon it is (x_t - s_t output) / a_t, which is infinite where x_t holds no signal; from v it is
        a_t x_t - s_t output.
        """
        a, s = self._coefficients(x_t, t)
        x0 = (x_t - s * output) / a if self.prediction_type == "epsilon" else a * x_t - s * output
        return x0.to(x_t.dtype)

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio a_t^2 / s_t^2 of timesteps int64 (B,).

        Returns:
            float32 (B,), from 1e4 at t = 0 down to 4e-5, or to 0 with rescale_betas_zero_snr, at t = 999.
        """
        a, s = self._table(t.device)[:, t]
        return (a / s).square().float()

    def diffusers_config(self) -> dict[str, Any]:
        """Return the keyword arguments by which every diffusers scheduler becomes this schedule."""
        return {
            "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
            "beta_start": BETA_START,
            "beta_end": BETA_END,
            "beta_schedule": self.beta_schedule,
            "prediction_type": self.prediction_type,
            "rescale_betas_zero_snr": self.rescale_betas_zero_snr,
            # Without signal at the last timestep, sampling must start there (Lin et al. 2024, Sec. 3.3); else LaVie's.
            "timestep_spacing": "trailing" if self.rescale_betas_zero_snr else "leading",
            "steps_offset": 0 if self.rescale_betas_zero_snr else 1,
        }

    def _coefficients(self, like: Tensor, t: Tensor) -> Tensor:
        """Return a_t and s_t as (2, B, 1 ...), to multiply tensors of the shape of `like` (B, ...)."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        rows = self._table(like.device)[:, t].to(dtype)
        return rows.reshape(2, len(t), *(1,) * (like.dim() - 1))

    def _table(self, device: torch.device) -> Tensor:
        """Return a_t and s_t of all timesteps, float64 (2, 1000), kept on every device that asked for them."""
        if device not in self._by_device:
            self._by_device[device] = carry(self._signal_and_noise, device)
        return self._by_device[device]


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Rescale `betas` (T,) so that the last timestep holds no signal and the first as much as before.

    Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps Are Flawed", Algorithm 1.
    """
    signal = (1 - betas).cumprod(0).sqrt()
    first, last = signal[0], signal[-1]
    alphas_cumprod = ((signal - last) * first / (first - last)).square()
    alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1 - alphas
