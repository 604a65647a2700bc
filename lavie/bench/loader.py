"""How fast clips are delivered, beside the usual ways: `make bench-data` or `python -m lavie.bench.loader [SHARDS...]`.

Every contestant delivers the same clips from the same shards: decoded, cut and scaled. They take turns, and each number
is the median of the rounds, so that ratios hold on a busy machine too. Without SHARDS, clips are rendered: short H.264
files, long ones with a keyframe every two seconds, and VP9 where DALI is there to decode it on the CPU.
"""

import argparse
import csv
import hashlib
import io
import itertools
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ..config.data import DataConfig
from ..console import make_console
from ..data.decoders.choice import Wanted, choose_backend
from ..data.feed.loader import build_loader
from ..data.feed.share import Share
from ..data.media.clips import clip_indices, fit
from ..data.media.decode import probe, read_frames
from ..data.media.encode import encode_mp4, encode_vp9
from ..data.media.one_pass import scaled_pixels
from ..data.order.permutation import sample_at
from ..data.prepare.writer import ShardWriter
from ..data.shards.index import Index, load_index
from ..data.shards.index_file import Sample
from ..data.shards.member import read_member
from ..errors import ConfigError
from ..seeds import numpy_generator
from ..training.journal import read_records

SEED = 0
FRAMES, HEIGHT, WIDTH, STRIDE = 16, 160, 256, 2
"""Frames, rows and columns of a clip that is delivered, and file frames from one of them to the next."""
BATCH = 2
"""Clips of a batch."""
RENDERED = {"short-h264": (64, 8), "long-h264": (300, 48), "vp9": (64, 48)}
"""For each kind of rendered file its number of frames, and of frames from one keyframe to the next; all are 360 x 640
pixels at 24 frames per second."""


def render(folder: Path, clips: int, kind: str) -> Path:
    """Write a shard of `clips` moving patterns, of a kind of RENDERED, and return its folder."""
    count, gop = RENDERED[kind]
    encode = encode_vp9 if kind == "vp9" else encode_mp4
    with ShardWriter(folder) as writer:
        for number in range(clips):
            phase = numpy_generator(SEED, "bench", number).uniform(0, 6, 3)
            y, x = np.mgrid[:360, :640]
            waves = np.stack([128 + 100 * np.sin(x / 37 + y / 23 + p) for p in phase], -1).astype(np.uint8)
            media = encode((np.roll(waves, 3 * t, axis=1) for t in range(count)), 24, gop=gop)
            writer.add(f"{number:05d}", media, probe(media), "waves", {})
    return folder


def ours(folder: Path, workers: int, clips: int, decoder: Wanted = "pyav") -> float:
    """Return the frames per second of our loader with a decoder; DALI decodes on the GPU if there is one."""
    # Clips without images beside them: what the other contestants deliver too.
    data = DataConfig(
        train=(str(folder),),
        num_frames=FRAMES,
        num_images=0,
        height=HEIGHT,
        width=WIDTH,
        frame_stride=STRIDE,
        num_workers=workers,
        decoder=decoder,
    )

    # The loader has threads and processes, which must end before the next contestant begins.
    loader = build_loader(
        data,
        data.train,
        Share(seed=SEED, train_batch_size=BATCH),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    try:
        return _rate(batch["pixels"].shape[1] * BATCH for batch in itertools.islice(loader, 1 + clips // BATCH))
    finally:
        loader.close()


def plain(folder: Path, workers: int, clips: int) -> float:
    """Return the frames per second of the usual loop: webdataset under PyTorch's DataLoader.

    webdataset reads the tars in order, and clips are decoded by random access, as with decord.
    """
    import webdataset

    shards = sorted(map(str, folder.glob("*.tar")))
    dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).map(_plain_clip).repeat()
    if workers > len(shards):
        workers = len(shards)  # webdataset gives each worker shards of its own
    loader = torch.utils.data.DataLoader(dataset, BATCH, num_workers=workers)
    return _rate(batch.shape[1] * BATCH for batch in itertools.islice(loader, 1 + clips // BATCH))


def torchcodec(folder: Path, clips: int) -> float:
    """Return the frames per second of torchcodec, asked by frame numbers with exact seeking."""
    from torchcodec.decoders import VideoDecoder

    samples = load_index([str(folder)]).videos

    def batches() -> Iterator[int]:
        """Yield the number of frames of each batch when it is decoded."""
        for position in range(clips + BATCH):
            sample = samples[sample_at(position, len(samples), SEED)]
            frames = VideoDecoder(read_member(sample), num_ffmpeg_threads=1).get_frames_at(_indices(sample).tolist())
            fit(frames.data.permute(0, 2, 3, 1).numpy(), HEIGHT, WIDTH)
            if position % BATCH == 0:
                yield FRAMES * BATCH

    return _rate(batches())


def reading(index: Index, clips: int) -> dict[str, float]:
    """Return the seconds per clip of six tasks, the medians of three rounds.

    These are reading the tars from end to end, reading them in our order, the same with SHA-256, and decoding, as it is
    done, with every frame decoded, and with frames scaled by swscale.
    """
    samples = index.videos
    shards = sorted({sample.shard for sample in samples})

    def raw() -> None:
        """Read the media of all tars from end to end."""
        for shard in shards:
            with tarfile.open(shard) as tar:
                for member in tar:
                    if not member.name.endswith(("txt", "json")):
                        file = tar.extractfile(member)
                        assert file
                        file.read()

    def stream(verify: bool) -> None:
        """Read the media of all tars in our order."""
        for position in range(len(samples)):
            read_member(samples[sample_at(position, len(samples), SEED)], verify)

    def deliver(**options: Any) -> None:
        """Decode, cut and scale clips in our order; options are those of `read_frames`."""
        for position in range(clips):
            sample = samples[sample_at(position, len(samples), SEED)]
            data = read_member(sample, verify=False)
            fit(read_frames(data, _indices(sample), sample.frames, **options), HEIGHT, WIDTH)

    contest: dict[str, tuple[Callable[[], None], int]] = {
        "raw tar": (raw, len(samples)),
        "in our order": (lambda: stream(False), len(samples)),
        "in our order, SHA-256": (lambda: stream(True), len(samples)),
        "decoding": (deliver, clips),
        "decoding every frame": (lambda: deliver(skip=False), clips),
        "decoding, swscale-1": (
            lambda: deliver(convert=partial(scaled_pixels, height=HEIGHT, width=WIDTH, crop="cover")),
            clips,
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contest}
    for _, (name, (run, count)) in itertools.product(range(3), contest.items()):
        start = time.perf_counter()
        run()
        seconds[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in seconds.items()}


def data_wait(metrics: Path, samples_per_step: int) -> float:
    """Return the share of a run's time that it waited for data, but for steps that warmed it up and so have no rate.

    Args:
        metrics: the run's metrics.jsonl.
        samples_per_step: over all ranks.
    """
    # Validation writes lines of its own.
    lines = [line for line in read_records(metrics) if line.get("samples_per_s")]
    return sum(line["data_wait_s"] for line in lines) / sum(samples_per_step / line["samples_per_s"] for line in lines)


def main() -> None:
    """Parse the command line; print the frames per second of all contestants on every folder of shards.

    With --metrics, print instead the share of a finished run's time that it waited for data.
    """
    parser = argparse.ArgumentParser(prog="python -m lavie.bench.loader", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("shards", nargs="*", type=Path, help="folders of shards; default: rendered clips")
    parser.add_argument("--clips", type=int, default=12, help="delivered per contestant and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--metrics", type=Path, help="metrics.jsonl of a run: prints its share of waiting for data")
    parser.add_argument("--batch", type=int, default=1, help="samples per step of that run, over all ranks")
    parser.add_argument("--csv", type=Path, help="append the results to this file")
    args = parser.parse_args()
    console = make_console()
    if args.metrics:
        console.print(f"waiting for data: {data_wait(args.metrics, args.batch):.1%} of a step's time")
        return
    args.torchcodec = _has_torchcodec(console)
    with tempfile.TemporaryDirectory() as temporary:
        kinds = [kind for kind in RENDERED if kind != "vp9" or _dali_device() == "cpu"]
        folders = args.shards or [render(Path(temporary) / kind, 6, kind) for kind in kinds]
        for folder in folders:
            _time_folder(console, folder, args)


def _time_folder(console: Console, folder: Path, args: argparse.Namespace) -> None:
    """Let all contestants deliver the clips of a folder of shards, and print their rates and the cost of our order."""
    # Decoders that cannot read the folder's codecs here do not take part.
    index = load_index([str(folder)])
    codecs = {sample.codec for sample in index.videos}
    contest: dict[tuple[str, int], Callable[[], float]] = {}
    for workers in args.workers:
        contest["lavie, pyav", workers] = partial(ours, folder, workers, args.clips)
        contest["webdataset + pyav", workers] = partial(plain, folder, workers, args.clips)
    device = _dali_device()
    if device == "gpu" or (device == "cpu" and codecs <= {"vp8", "vp9"}):
        for workers in args.workers:
            contest[f"lavie, dali-{device}", workers] = partial(ours, folder, workers, args.clips, "dali")
    if args.torchcodec:
        contest["torchcodec", 0] = lambda: torchcodec(folder, args.clips)

    # They take turns, so that a busy moment hits all of them.
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in contest}
    for _, (key, run) in itertools.product(range(args.rounds), contest.items()):
        rates[key].append(run())
    results = [(name, workers, statistics.median(values)) for (name, workers), values in rates.items()]
    base = {workers: rate for name, workers, rate in results if name == "webdataset + pyav"}
    table = Table(title=f"{folder.name} ({', '.join(sorted(codecs))}): {FRAMES} frames of {HEIGHT} x {WIDTH} a clip")
    for column in ("decoder", "workers", "frames/s", "to webdataset + pyav"):
        table.add_column(column, justify="left" if column == "decoder" else "right")
    for name, workers, rate in results:
        ratio = f"{rate / base[workers]:.2f}" if workers in base else ""
        table.add_row(name, str(workers), f"{rate:.0f}", ratio)
    console.print(table)

    # Reading samples in random order costs more than reading tars from end to end, and SHA-256 more still.
    times = reading(index, args.clips)
    order, checked = (times[name] - times["raw tar"] for name in ("in our order", "in our order, SHA-256"))
    console.print(
        f"raw tar reading: {times['raw tar'] * 1e6:.0f} us a clip; decoding: {times['decoding'] * 1e6:.0f} us"
    )
    for what in ("decoding every frame", "decoding, swscale-1"):
        console.print(f"{what}: {times[what] / times['decoding']:.2f} of the time of decoding")
    for what, extra in (("order", order), ("order and SHA-256", checked)):
        console.print(
            f"{what}: {extra * 1e6:+.0f} us a clip, {extra / times['raw tar']:+.1%} of reading it from the tar, "
            f"{extra / (times['raw tar'] + times['decoding']):+.2%} of delivering it"
        )
    if args.csv:
        new = not args.csv.exists()
        with open(args.csv, "a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["shards", "decoder", "workers", "frames_per_s"])
            writer.writerows([folder.name, name, workers, f"{rate:.1f}"] for name, workers, rate in results)


def _rate(counts: Iterator[int]) -> float:
    """Return the frames per second of batches with these numbers of frames.

    The first batch is left out, for it starts everything.
    """
    next(counts)
    start = time.perf_counter()
    frames = sum(counts)
    return frames / (time.perf_counter() - start)


def _indices(sample: Sample) -> np.ndarray:
    """Return the frame numbers of a sample's clip, whose start its key decides."""
    return clip_indices(np.arange(sample.frames) / (sample.fps or 1), FRAMES, frame_stride=STRIDE, u=_start(sample.key))


def _start(key: str) -> float:
    """Return where the clip of a sample starts, 0 .. 1 of the possible starts, from a hash of its key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


def _plain_clip(sample: dict) -> np.ndarray:
    """Return a clip uint8 (F, H, W, 3) of a webdataset sample, decoded from the keyframe before its first frame."""
    (media,) = (value for key, value in sample.items() if key in ("mp4", "webm"))
    with av.open(io.BytesIO(media), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate = float(stream.average_rate or 1)
        frames = round(float(stream.duration or 0) * float(stream.time_base or 0) * rate) or round(
            (container.duration or 0) / av.time_base * rate
        )
        wanted = clip_indices(
            np.arange(frames) / rate, FRAMES, frame_stride=STRIDE, u=_start(sample["__key__"])
        ).tolist()
        container.seek(int(wanted[0] / rate / float(stream.time_base or 1)), stream=stream)
        found: list[np.ndarray] = []
        for frame in container.decode(stream):
            if round(frame.time * rate) in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
            if len(found) == FRAMES:
                break
    return fit(found, HEIGHT, WIDTH)


def _dali_device() -> str | None:
    """Return the device on which DALI could decode here, "gpu" or "cpu"; None if it cannot."""
    for device in ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",):
        try:
            return choose_backend("dali", torch.device(device))[0].removeprefix("dali-")
        except ConfigError:
            continue
    return None


def _has_torchcodec(console: Console) -> bool:
    """Return whether torchcodec can be used here; print why if it cannot."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        console.print(f"torchcodec is left out: {str(error).splitlines()[0]}")
        return False
    return True


if __name__ == "__main__":
    main()
