"""What an output of the network says of the clip and of the noise: the inverse of the noise schedule's `add_noise`."""

from torch import Tensor

from lavie.diffusion.schedule import NoiseSchedule


def predict_x0(schedule: NoiseSchedule, x_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
    """Return the x_0 that an output implies, given the noisy x_t at timesteps t int64 (B,)."""
    a, s = schedule._coefficients(x_t, t)
    x0 = (x_t - s * output) / a if schedule.prediction_type == "epsilon" else a * x_t - s * output
    return x0.to(x_t.dtype)


def predict_noise(schedule: NoiseSchedule, x_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
    """Return the noise that an output implies."""
    if schedule.prediction_type == "epsilon":
        return output.to(x_t.dtype)
    a, s = schedule._coefficients(x_t, t)
    return (s * x_t + a * output).to(x_t.dtype)
