"""DALI as a decoder of clips, and the check that keeps its known traps away from it.

DALI aborts or hangs on headers that it cannot read, counts packets instead of frames, picks its stream by other rules,
takes the frames' size from the container, knows no rotation and converts every colour with BT.601's matrix. So a clip
goes to it only if its index entry (`dali_serves`) and its header (`clip_for_dali`) show a plain case; all others are
PyAV's.
"""

import io
from collections.abc import Sequence
from typing import Any, Literal

import av
import numpy as np
import torch

from ...errors import DataError
from ..media.clips import Crop, cut_box
from ..media.decode import DEMUXERS, open_video, sniff
from ..shards.index_file import Sample
from .clip import Backend, EncodedClip

Device = Literal["cpu", "gpu"]
CODECS: dict[Device, tuple[str, ...]] = {"cpu": ("vp8", "vp9"), "gpu": ("h264", "hevc", "vp8", "vp9")}
"""By FFmpeg's names. On a CPU, DALI 2.4 has no H.264 and HEVC; AV1 and MPEG-4 are not on every GPU."""
GPU_SIDES = 144, 4096
"""Smallest and largest side in pixels that every NVDEC since Ampere takes for all four codecs."""
BT709, BT601 = {1}, {2, 5, 6}
"""Matrix coefficients of ITU-T H.273: 709; unspecified, 601-625, 601-525. Unspecified counts as 601, as in FFmpeg."""
MAX_FILE = 64 << 20
"""Bytes of a file that is handed to the trainer: each place of a worker's queue is as large as the largest."""
MAX_BYTES = 1 << 30
"""Of decoded frames at full size that one run of the pipeline may hold: DALI's memory grows to its largest run."""

TO_BT709 = np.array(
    # R, G, B by BT.709 from R, G, B by BT.601: M709 times the inverse of M601, both from full-range Y, Cb, Cr.
    np.array([[1, 0, 1.5748], [1, -0.187324, -0.468124], [1, 1.8556, 0]])
    @ np.linalg.inv([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]),
    np.float32,
)
"""What DALI decodes by the wrong matrix is put right; colours that clipped on the way lose a little."""


def dali_serves(sample: Sample, device: Device) -> str | None:
    """Why the index forbids to give a sample to DALI; None if it does not."""
    if sample.kind != "video":
        return "not a video"
    if sample.codec not in CODECS[device]:
        return f"DALI does not decode {sample.codec} on the {device.upper()}"
    if sample.vfr or not sample.fps:
        return "its frame rate varies"
    if sample.size > MAX_FILE:
        return f"its file is larger than {MAX_FILE >> 20} MiB"
    if device == "gpu":
        (low, high), sides = GPU_SIDES, (sample.width, sample.height)
        if min(sides) < low or max(sides) > high:
            return f"a side is shorter than {low} or longer than {high} pixels"
        if any(side % 2 for side in sides):
            return "a side has an odd number of pixels"
    return None


def clip_for_dali(
    sample: Sample, data: bytes, indices: np.ndarray, u: float, v: float, device: Device
) -> EncodedClip | str:
    """The clip, ready for DALI, or why it must not have it: by the index, the header, the packets and the first frame.

    data: the verified bytes of the sample. Costs the decoding of one frame. Raises DataError if that frame is damaged.
    """
    if reason := dali_serves(sample, device):
        return reason
    with open_video(data) as (container, stream):
        if len(container.streams.video) > 1:
            return "it has several video streams"
        packets, first = 0, None
        for packet in container.demux(stream):
            if packet.is_discard or packet.is_corrupt or (packet.size and packet.pts is None):
                return "not every packet is a frame to show"
            if not packets and not packet.is_keyframe:
                return "it does not start at a keyframe"
            packets += packet.size > 0
            if first is None:
                first = next(iter(packet.decode()), None)
    if first is None or packets != sample.frames:
        return "not every packet is a frame to show"
    if reason := _fault(first, (sample.width, sample.height)):
        return reason
    if (announced := _announced_size(data)) != (first.width, first.height):
        return f"its header announces {announced[0]} x {announced[1]} pixels, its frames are of another size"
    return EncodedClip(
        key=sample.key,
        data=data,
        indices=indices,
        height=sample.height,
        width=sample.width,
        bt709=int(first.colorspace) in BT709,
        u=u,
        v=v,
    )


def _announced_size(data: bytes) -> tuple[int, int]:
    """(width, height) by the container's header, as DALI takes it: without a decoder, FFmpeg does not mend it."""
    options = {"codec_whitelist": "none"}
    try:
        with av.open(io.BytesIO(data), "r", format=DEMUXERS[sniff(data)], options=options) as container:
            context = container.streams.video[0].codec_context
            return context.width, context.height
    except av.FFmpegError:
        return 0, 0


def _fault(frame: av.VideoFrame, size: tuple[int, int]) -> str | None:
    if frame.rotation:
        return "it is to be turned upright"
    if (frame.width, frame.height) != size:
        return "its frames are not of the size that the index says"
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        return f"its pixels are {frame.format.name}, not 8-bit 4:2:0"
    if frame.interlaced_frame:
        return "it is interlaced"
    if int(frame.colorspace) not in BT709 | BT601:
        return f"its colour matrix is number {int(frame.colorspace)} of H.273, neither BT.601 nor BT.709"
    return None


class DaliDecoder:
    """Clips of `frames` frames, decoded, cut, scaled and normalised by one DALI pipeline, fed by the caller.

    device: a CUDA device (decoded by NVDEC; nothing but the files crosses to it) or the CPU. batch_size: the most clips
    of a call; num_threads: CPU threads that parse, and on the CPU decode. Frames agree with PyAV's by number exactly;
    pixels differ by how chroma is scaled up. Raises DataError (from a call) with DALI's words.
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
        self.backend: Backend = "dali-gpu" if device.type == "cuda" else "dali-cpu"
        self._shape = (frames, height, width)
        self._crop, self._device, self._batch_size, self._num_threads = crop, device, batch_size, num_threads
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pipeline: Any = None

    def __call__(self, clips: Sequence[EncodedClip]) -> torch.Tensor:
        """See Decoder."""
        return torch.cat([self._run(group) for group in self._groups(clips)])

    def _groups(self, clips: Sequence[EncodedClip]) -> list[list[EncodedClip]]:
        """The clips in order, in runs of at most batch_size whose frames take at most MAX_BYTES, or of a single one."""
        groups: list[list[EncodedClip]] = []
        held = 0
        for clip in clips:
            size = len(clip.indices) * clip.height * clip.width * 3
            if groups and len(groups[-1]) < self._batch_size and held + size <= MAX_BYTES:
                groups[-1].append(clip)
                held += size
            else:
                groups.append([clip])
                held = size
        return groups

    def _run(self, clips: list[EncodedClip]) -> torch.Tensor:
        from nvidia.dali.plugin.pytorch import feed_ndarray

        frames, height, width = self._shape
        try:
            if self._pipeline is None:
                self._pipeline = self._build()
            boxes = [cut_box(c.height, c.width, height, width, c.u, c.v, self._crop) for c in clips]
            colours = [TO_BT709 if c.bt709 else np.eye(3, dtype=np.float32) for c in clips]
            inputs = {
                "data": [np.frombuffer(c.data, np.uint8) for c in clips],
                "frames": [c.indices.astype(np.int32) for c in clips],
                "start": [np.array([top, left], np.float32) for left, top, _, _ in boxes],
                "end": [np.array([bottom, right], np.float32) for _, _, right, bottom in boxes],
                "matrix": [matrix / np.float32(127.5) for matrix in colours],
            }
            for name, values in inputs.items():
                self._pipeline.feed_input(name, values)
            (result,) = self._pipeline.run()
            with torch.cuda.stream(self._stream):
                out = torch.empty((len(clips), frames, 3, height, width), device=self._device)
                feed_ndarray(result.as_tensor(), out, cuda_stream=self._stream)
            if self._stream:
                self._stream.synchronize()  # the result's memory is DALI's again on its next run
                out.record_stream(torch.cuda.current_stream(self._device))  # which reads it
        except RuntimeError as error:
            self._pipeline = None  # a pipeline that failed once is unusable
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise DataError(f"DALI: {' '.join(lines[-4:])}") from None
        return out

    def _build(self) -> Any:
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

            def given(name: str, ndim: int, dtype: Any) -> Any:
                return fn.external_source(name=name, ndim=ndim, dtype=dtype)

            video = fn.decoders.video(
                given("data", 1, types.UINT8),
                device="mixed" if gpu else "cpu",
                frames=given("frames", 1, types.INT32),
                pad_mode="none",  # a frame past the end is an error
            )
            video = fn.resize(
                video,
                size=(height, width),
                roi_start=given("start", 1, types.FLOAT),
                roi_end=given("end", 1, types.FLOAT),
                interp_type=types.INTERP_CUBIC,
                antialias=True,
            )
            video = fn.coord_transform(video, M=given("matrix", 2, types.FLOAT), T=-1.0)
            pipeline.set_outputs(fn.transpose(dali.math.clamp(video, -1.0, 1.0), perm=(0, 3, 1, 2)))
        pipeline.build()
        return pipeline
