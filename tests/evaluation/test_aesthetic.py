import numpy as np
import pytest
import torch

from lavie.errors import CheckpointError
from lavie.evaluation.aesthetic import AestheticHead, aesthetic
from lavie.evaluation.clip_network.network import load_clip
from lavie.evaluation.clip_source import find_clips
from lavie.testing import SHARED
from tests.evaluation.tiny_clip import OUT, write_clip, write_clips
from tests.markers import requires_shared

ASSETS = SHARED / "assets/aesthetic"
IMPROVED = [1.655, 2.359, 3.070, 3.672, 4.238, 4.701, 5.073, 5.365, 5.577, 5.747]
"""What sac+logos+ava1 gives for the ten embeddings beside it, rating0 to rating9."""
SIZES = (("layers.0", OUT, 7), ("layers.2", 7, 6), ("layers.4", 6, 5), ("layers.6", 5, 4), ("layers.7", 4, 1))


def write_head(path, kind="improved", width=OUT):
    generator = torch.Generator().manual_seed(0)
    layers = SIZES if kind == "improved" else (("", width, 1),)
    state = {}
    for name, before, after in layers:
        prefix = f"{name}." if name else ""
        state[f"{prefix}weight"] = torch.randn(after, before, generator=generator)
        state[f"{prefix}bias"] = torch.randn(after, generator=generator)
    torch.save(state, path)
    return state


@requires_shared
def test_both_heads_on_real_embeddings():
    embeddings = np.concatenate([np.load(ASSETS / f"vit_l_14_embeddings/rating{i}.npy") for i in range(10)])
    improved = AestheticHead(ASSETS / "improved_sac+logos+ava1-l14-linearMSE.pth")
    assert improved.kind == "sac+logos+ava1" and improved.width == 768
    np.testing.assert_allclose(improved(embeddings), IMPROVED, atol=1e-3)
    # No golden of V1 is known: it is one product, which numpy takes from the same file.
    linear = AestheticHead(ASSETS / "laion_sa_0_4_vit_l_14_linear.pth")
    assert linear.kind == "laion_v1_linear" and linear.width == 768
    state = torch.load(ASSETS / "laion_sa_0_4_vit_l_14_linear.pth", map_location="cpu", weights_only=True)
    wanted = embeddings.astype(np.float64) @ state["weight"][0].double().numpy() + state["bias"].double().numpy()
    np.testing.assert_allclose(linear(embeddings), wanted, atol=1e-9)


@pytest.mark.parametrize("kind", ("improved", "v1"))
def test_the_rating_of_a_clip_is_the_mean_over_its_frames(tmp_path, kind):
    write_clip(tmp_path / "clip")
    frames = write_clips(tmp_path / "samples")
    state = write_head(tmp_path / "head.pth", kind)
    network, head = load_clip(tmp_path / "clip", torch.device("cpu")), AestheticHead(tmp_path / "head.pth")
    protocol = network.frame_protocol()
    result = aesthetic(find_clips(tmp_path / "samples"), protocol, network, head, source="x")
    for name, pixels in frames.items():
        x = network.embed_frames(pixels, protocol)
        for prefix in [f"{layer}." for layer, *_ in SIZES] if kind == "improved" else [""]:
            x = torch.nn.functional.linear(x, state[f"{prefix}weight"], state[f"{prefix}bias"])
        assert result["scores"][name] == pytest.approx(float(x.mean()), abs=1e-4)
        assert x.std() > 1e-3
    assert result["metric"] == "aesthetic" and result["protocol"]["head"] == head.kind
    assert result["value"] == pytest.approx(np.mean(list(result["scores"].values())))
    assert result["weights"]["head"] == head.sha256
    state["bias" if kind == "v1" else "layers.0.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    other = AestheticHead(tmp_path / "other.pth")
    changed = aesthetic(find_clips(tmp_path / "samples"), protocol, network, other, source="x")
    assert changed["protocol_hash"] != result["protocol_hash"]
    write_clip(tmp_path / "clip", seed=1)
    network = load_clip(tmp_path / "clip", torch.device("cpu"))
    changed = aesthetic(find_clips(tmp_path / "samples"), protocol, network, head, source="x")
    assert changed["protocol_hash"] != result["protocol_hash"]


def test_a_head_of_another_network_is_refused(tmp_path):
    write_clip(tmp_path / "clip")
    write_head(tmp_path / "head.pth", "v1", width=768)
    network, head = load_clip(tmp_path / "clip", torch.device("cpu")), AestheticHead(tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=f"--head takes 768 numbers, --weights gives {OUT}: .*ViT-L/14"):
        aesthetic([], network.frame_protocol(), network, head, source="x")


@pytest.mark.parametrize(
    "content, words",
    (
        (b"junk", "wanted a file of plain tensors"),
        ({"fc.weight": torch.zeros(1, 3)}, "its keys, fc.weight, are no aesthetic head's"),
        ([1], "its keys, none, are no"),
        ({"weight": torch.zeros(1, 3), "bias": 2}, "are no aesthetic head's"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, r"layers of \[\(2, 3\)\]"),
        ({"weight": torch.zeros(3), "bias": torch.zeros(1)}, r"layers of \[\(3,\)\]"),
        ({"weight": torch.zeros(1, 3), "bias": torch.zeros(3)}, "and its own bias"),
        ({"weight": torch.zeros(1, 3, dtype=torch.long), "bias": torch.zeros(1)}, "are no aesthetic head's"),
        ({"weight": torch.tensor([[0, torch.nan]]), "bias": torch.zeros(1)}, "weight holds NaN or infinity"),
        ({"weight": torch.zeros(1, 2), "bias": torch.tensor([-torch.inf])}, "bias holds NaN or infinity"),
    ),
)
def test_what_is_no_head_is_refused(tmp_path, content, words):
    path = tmp_path / "head.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=words):
        AestheticHead(path)
