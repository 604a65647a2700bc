import torch.nn.functional as F


def pseudo3d_conv(x, weight, bias=None, *, time=None, residual=None, backend="auto"):
    w = weight.reshape(*weight.shape[:3], 1)
    y = F.conv2d(x.permute(0, 3, 1, 2), w, bias, padding=(weight.shape[2] // 2, 0)).permute(0, 2, 3, 1)
    if time is not None:
        y = y + time[:, None, None]
    return y if residual is None else y + residual
