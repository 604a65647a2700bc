"""Training, resuming and sampling without a network: not one connection is even tried, but between the ranks."""

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from lavie.config.load import load_config
from lavie.data.prepare.synthetic import demo_set
from lavie.testing import free_port
from tests.nodes import BIN, ROOT, end, environment

OUTSIDE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""A namespace of its own: a loopback, and no route."""
HOSTS = "127.0.0.1 localhost {name}\n::1 localhost\n::ffff:127.0.0.1 localhost\n"
"""/etc/hosts in there. PyTorch asks for the names of its own sockets; without the last line it would ask DNS."""
ZERO = {"zero_optimization": {"stage": 3}, "zero_allow_untested_optimizer": True}
CONFIG = """
model: {in_channels: 3, out_channels: 3, block_out_channels: [16, 32], cross_attention: [true, false],
        layers_per_block: 1, num_attention_heads: 1, cross_attention_dim: 16, norm_num_groups: 4, rotary_dim: 8}
autoencoder: {type: patch, patch_size: 4, coefficients: 1, scaling_factor: 0.25}
text_encoder: {type: clip, max_length: 8}
data: {num_frames: 4, num_images: 1, height: 16, width: 16, frame_stride: 1, num_workers: 1}
train_batch_size: 1
max_train_steps: 4
checkpointing_steps: 2
validation_steps: 2
validation_prompts: [a red circle]
sampling: {num_inference_steps: 2}
"""


def stable_diffusion(folder: Path, config) -> Path:
    """Tiny random networks in the layout of Stable Diffusion: what Hugging Face's libraries load."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer/vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    special = dict(bos_token_id=len(vocabulary) - 2, eos_token_id=len(vocabulary) - 1)
    CLIPTextModel(CLIPTextConfig(**sizes, vocab_size=len(vocabulary), **special)).save_pretrained(
        folder / "text_encoder"
    )
    UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_out_channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.heads,
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_num_groups,
    ).save_pretrained(folder / "unet")
    return folder


@pytest.fixture
def traced(tmp_path):
    """A function: a shell script and its arguments, run offline -> the connections it tried and what it printed."""
    if not shutil.which("strace") or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("no strace, ip or unshare")
    if subprocess.run([*OUTSIDE, "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not permitted here")
    log, hosts = tmp_path / "connections", tmp_path / "hosts"
    hosts.write_text(HOSTS.format(name=socket.gethostname()))
    inside = 'mount --bind "$1" /etc/hosts; shift; ip link set lo up; exec "$@"'
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-e", "signal=none", "-o", str(log)]
    if subprocess.run([*strace, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")

    def traced(script: str, *arguments: object) -> tuple[list[str], str]:
        process = subprocess.Popen(
            [
                *OUTSIDE,
                "sh",
                "-ec",
                inside,
                "sh",
                str(hosts),
                *strace,
                "sh",
                "-exc",
                script,
                "sh",
                *map(str, arguments),
            ],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=300)
        finally:
            end(process)
        assert process.returncode == 0, printed
        return [line for line in log.read_text().splitlines() if "connect(" in line], printed

    return traced


def outside(calls: list[str]) -> list[str]:
    """The connect() calls that could leave this machine: neither to a socket of it, nor to its loopback; or to DNS."""
    local = re.compile(r'sa_family=AF_(UNIX|UNSPEC)|inet_addr\("127\.|"::1"|"::ffff:127\.')
    return [call for call in calls if not local.search(call) or re.search(r"htons\(53\)", call)]


def test_attempts_are_seen(traced):
    code = (
        "import contextlib, socket\n"
        "for address in ('192.0.2.1', '2001:db8::1', '127.0.0.1'):\n"
        "    with contextlib.suppress(OSError): socket.create_connection((address, 80), timeout=1)\n"
    )
    calls, _ = traced('"$1" -c "$2"', BIN / "python", code)
    assert len(calls) == 3
    seen = outside(calls)
    assert len(seen) == 2 and "192.0.2.1" in seen[0] and "2001:db8::1" in seen[1]


@pytest.mark.long
def test_train_resume_and_sample_connect_to_nobody(traced, tmp_path):
    demo_set(tmp_path, clips=4, images=4, size=32)
    values = yaml.safe_load(CONFIG)
    values |= dict(output_dir=str(tmp_path / "run"), pretrained_model_name_or_path=str(tmp_path / "sd"))
    values["data"] |= dict(train=str(tmp_path / "train"))
    path, settings = tmp_path / "offline.yaml", tmp_path / "zero.json"
    settings.write_text(json.dumps(ZERO))
    path.write_text(yaml.safe_dump(values))
    torch.manual_seed(0)
    stable_diffusion(tmp_path / "sd", load_config(path).model)
    script = """
train="$1/torchrun --nproc-per-node 2 --master-addr 127.0.0.1 --master-port $2 train.py --deepspeed $5 $3"
$train max_train_steps=2
$train resume_from_checkpoint=latest
"$1/lavie" sample --checkpoint "$4/run" --prompt "a blue circle" --out "$4/samples"
"""
    calls, printed = traced(script, BIN, free_port(), path, tmp_path, settings)
    assert "step 4/4" in printed and list((tmp_path / "samples").glob("*.mp4"))
    assert calls and outside(calls) == []  # the ranks' own are there
