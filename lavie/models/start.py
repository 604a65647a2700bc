"""The weights that a run starts from, as its config names them."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..config.model import UNetConfig
from ..config.train import TrainConfig
from ..errors import CheckpointError
from .add_difference import DifferenceReport, add_difference
from .single_file import is_single_file, read_unet, require_unet
from .torch_file import read_weight_file
from .unet import VideoUNet
from .weights import LoadReport, initialize, spatial_shapes


def start_network(network: VideoUNet, config: TrainConfig) -> list[LoadReport | DifferenceReport]:
    """Give a fresh network the weights that its run starts from, and return what was done.

    1. Those of init_weights, or else of pretrained_model_name_or_path, if there is one of them.
    2. What add_difference adds to them.

    Raises:
        CheckpointError: a file or folder is something else or does not fit, or extract_ema asks for averaged weights
            that none of the files has.
    """
    reports: list[LoadReport | DifferenceReport] = []
    source = config.init_weights or config.pretrained_model_name_or_path
    if source:
        reports.append(initialize(network, source, extract_ema=config.extract_ema))
    if config.add_difference is not None:
        added = config.add_difference
        original = added.original or config.pretrained_model_name_or_path
        assert original is not None  # TrainConfig has checked it
        reports.append(add_difference(network, added.weights, original, added.scale, extract_ema=config.extract_ema))
    require_averaged(config.extract_ema, {each.source: each.averaged for each in reports}, "extract_ema is true")
    return reports


def require_averaged(asked: bool, files: Mapping[str, bool], who: str) -> None:
    """Raise CheckpointError if averaged weights were asked for, and no file had some.

    Args:
        asked: whether they were.
        files: whether averaged weights were taken of a file or folder, by its path.
        who: who asked, as the message begins.
    """
    if asked and not any(files.values()):
        raise CheckpointError(
            f"{who}, but {' or '.join(files) or 'no file'} holds no averaged weights (keys model_ema.): leave it out"
        )


def require_single_files(config: TrainConfig) -> None:
    """Raise CheckpointError if a single file of the config is not the checkpoint that is wanted; no weights are copied.

    It is called before data are opened, for the weights themselves are read after that.
    """
    paths = [config.init_weights]
    if config.add_difference is not None:
        paths += [config.add_difference.weights, config.add_difference.original]
    for path in paths:
        if path is not None:
            require_single_file(path, config.model, config.extract_ema)


def require_single_file(path: str | Path, model: UNetConfig, extract_ema: bool) -> None:
    """Raise CheckpointError if there is a file of 2-D weights at `path`, and it is not for a network of this kind."""
    if not Path(path).is_file():
        return
    file = read_weight_file(path)
    if is_single_file(file):
        require_unet(file, model, extract_ema=extract_ema)  # which takes no time
        with torch.device("meta"):
            network = VideoUNet(model)
        read_unet(file, spatial_shapes(network), model, extract_ema=extract_ema)
