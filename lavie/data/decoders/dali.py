"""DALI as a decoder of clips: one pipeline that decodes, cuts, scales and normalises them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ..media.clips import Crop, cut_box
from .clip import Backend, EncodedClip

MAX_BYTES = 1 << 30
"""Most bytes of decoded frames, at their full size, in one run of the pipeline. DALI keeps the memory of its largest
run, so this bounds what it takes from training."""

TO_BT709 = np.array(
    # R, G, B by BT.709 from R, G, B by BT.601: M709 times the inverse of M601, both from full-range Y, Cb, Cr.
    np.array([[1, 0, 1.5748], [1, -0.187324, -0.468124], [1, 1.8556, 0]])
    @ np.linalg.inv([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]),
    np.float32,
)
"""Corrects the colours of a BT.709 file, which DALI decodes by BT.601's matrix: float32 (3, 3). Colours that BT.601's
matrix clips lose a little."""


class DaliDecoder:
    """A decoder of clips of one number of frames to one size, by a DALI pipeline.

    Clips have exactly the frames that PyAV finds; their pixels differ from PyAV's by the filters of two libraries (see
    `choice.MEAN`). On a GPU, NVDEC decodes, and nothing but the files crosses to the device.
    """

    def __init__(
        self,
        frames: int,
        height: int,
        width: int,
        crop: Crop = "cover",
        *,
        device: torch.device,
        batch_size: int,
        num_threads: int = 2,
    ) -> None:
        """Note the settings; the pipeline is built at the first call.

        Args:
            frames: of every clip.
            height: of the result, in pixels.
            width: of the result, in pixels.
            crop: how frames are cut (see `clips.cut_scale`).
            device: a CUDA device, or the CPU.
            batch_size: most clips in one run of the pipeline. A call may have more.
            num_threads: CPU threads that parse files, and that decode where the device is the CPU.
        """
        self.backend: Backend = "dali-gpu" if device.type == "cuda" else "dali-cpu"
        self._shape = (frames, height, width)
        self._crop, self._device, self._batch_size, self._num_threads = crop, device, batch_size, num_threads
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pipeline: Any = None

    def __call__(self, clips: Sequence[EncodedClip]) -> torch.Tensor:
        """Return the clips' pixels, as Decoder describes them. Raises DataError with DALI's words if one fails."""
        return torch.cat([self._run(group) for group in self._groups(clips)])

    def _groups(self, clips: Sequence[EncodedClip]) -> list[list[EncodedClip]]:
        """Return the clips in order, in groups of one run: at most batch_size clips and MAX_BYTES, or a single clip."""
        groups: list[list[EncodedClip]] = []
        group_bytes = 0
        for clip in clips:
            clip_bytes = len(clip.indices) * clip.height * clip.width * 3
            if groups and len(groups[-1]) < self._batch_size and group_bytes + clip_bytes <= MAX_BYTES:
                groups[-1].append(clip)
                group_bytes += clip_bytes
            else:
                groups.append([clip])
                group_bytes = clip_bytes
        return groups

    def _run(self, clips: list[EncodedClip]) -> torch.Tensor:
        """Return the pixels of one run of the pipeline: float32 (len(clips), F, 3, H, W) in [-1, 1] on the device."""
        from nvidia.dali.plugin.pytorch import feed_ndarray

        frames, height, width = self._shape
        try:
            if self._pipeline is None:
                self._pipeline = self._build()

            # Every input is a list with an array for each clip.
            boxes = [cut_box(c.height, c.width, height, width, c.u, c.v, self._crop) for c in clips]
            colours = [TO_BT709 if c.bt709 else np.eye(3, dtype=np.float32) for c in clips]
            inputs = {
                "data": [np.frombuffer(c.data, np.uint8) for c in clips],
                "frames": [c.indices.astype(np.int32) for c in clips],
                "start": [np.array([y, x], np.float32) for x, y, _, _ in boxes],
                "end": [np.array([y, x], np.float32) for _, _, x, y in boxes],
                "matrix": [matrix / np.float32(127.5) for matrix in colours],
            }
            for name, values in inputs.items():
                self._pipeline.feed_input(name, values)
            (result,) = self._pipeline.run()

            # The result is in DALI's memory, which its next run writes to again, so it is copied and waited for.
            with torch.cuda.stream(self._stream):
                out = torch.empty((len(clips), frames, 3, height, width), device=self._device)
                feed_ndarray(result.as_tensor(), out, cuda_stream=self._stream)
            if self._stream:
                self._stream.synchronize()
                # The copy was allocated on this decoder's stream, and the caller's stream reads it.
                out.record_stream(torch.cuda.current_stream(self._device))
        except RuntimeError as error:
            self._pipeline = None  # a pipeline that failed once is unusable
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise DataError(f"DALI: {' '.join(lines[-4:])}") from None
        return out

    def _build(self) -> Any:
        """Return the DALI pipeline: files, frame numbers, cuts and colour matrices in, clips out."""
        import nvidia.dali.fn
        import nvidia.dali.math
        import nvidia.dali.types

        dali: Any = nvidia.dali  # its stubs know neither its operators' results nor its constants
        fn, types = dali.fn, dali.types

        _, height, width = self._shape
        gpu = self._device.type == "cuda"
        pipeline = dali.Pipeline(
            batch_size=self._batch_size,
            num_threads=self._num_threads,
            device_id=(self._device.index or 0) if gpu else None,
            prefetch_queue_depth=1,  # decoding ahead is the caller's; each further run in flight holds its frames
        )
        with pipeline:

            def external(name: str, ndim: int, dtype: Any) -> Any:
                """Return the pipeline's node of an input that `_run` feeds."""
                return fn.external_source(name=name, ndim=ndim, dtype=dtype)

            video = fn.decoders.video(
                external("data", 1, types.UINT8),
                device="mixed" if gpu else "cpu",
                frames=external("frames", 1, types.INT32),
                pad_mode="none",  # a frame past the end is an error
            )
            # The same cut and the same kind of filter as `clips.fit`.
            video = fn.resize(
                video,
                size=(height, width),
                roi_start=external("start", 1, types.FLOAT),
                roi_end=external("end", 1, types.FLOAT),
                interp_type=types.INTERP_CUBIC,
                antialias=True,
            )
            # Colours are corrected and scaled to [-1, 1] in one step: the matrix is divided by 127.5 already.
            video = fn.coord_transform(video, M=external("matrix", 2, types.FLOAT), T=-1.0)
            pipeline.set_outputs(fn.transpose(dali.math.clamp(video, -1.0, 1.0), perm=(0, 3, 1, 2)))
        pipeline.build()
        return pipeline
