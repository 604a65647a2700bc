import json
from hashlib import sha256

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from lavie.errors import CheckpointError, DataError
from lavie.evaluation.vbench.encoders import CLIP_B32, DINO_B16, ClipFrames, Dino, FramePath, consistency, prepare
from lavie.testing import ORACLE_ATOL
from tests.evaluation.tiny_clip import SIDE, write_clip

CPU = torch.device("cpu")
TINY = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=224, patch_size=32
)


def random_frames(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save_vit(folder, **changes):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**TINY | changes), add_pooling_layer=False)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    model.save_pretrained(folder)
    return {name: value.double() for name, value in model.state_dict().items()}


def dino(state, x, heads=4, patch=32):
    """The class token of DINO, written from its description: pixels float64 (F, 3, h, w)."""
    width = state["embeddings.cls_token"].shape[-1]
    name, as_trained = "embeddings.patch_embeddings.projection", x.shape[-2:] == (224, 224)
    x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=patch)
    rows, columns = x.shape[-2:]
    table = state["embeddings.position_embeddings"]
    side = int((table.shape[1] - 1) ** 0.5)
    grid = table[:, 1:].unflatten(1, (side, side)).movedim(-1, 1)
    if not as_trained:
        # A picture that is not square counts here even if its grid is as large. The wanted size grows by 0.1 patches.
        grid = F.interpolate(grid, scale_factor=((rows + 0.1) / side, (columns + 0.1) / side), mode="bicubic")
    x = torch.cat([state["embeddings.cls_token"].expand(len(x), -1, -1), x.flatten(2).mT + grid.flatten(2).mT], dim=1)
    x[:, 0] += table[0, 0]
    for layer in range(2):

        def linear(name, y, layer=layer):
            return F.linear(y, state[f"layers.{layer}.{name}.weight"], state[f"layers.{layer}.{name}.bias"])

        def norm(name, y, layer=layer):
            key = f"layers.{layer}.{name}"
            return F.layer_norm(y, (width,), state[f"{key}.weight"], state[f"{key}.bias"], 1e-6)

        y = norm("layernorm_before", x)
        q, k, v = (linear(f"attention.{p}_proj", y).unflatten(-1, (heads, -1)).transpose(1, 2) for p in "qkv")
        y = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear("attention.o_proj", y.transpose(1, 2).flatten(2))
        x = x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("layernorm_after", x))))
    return F.layer_norm(x, (width,), state["layernorm.weight"], state["layernorm.bias"], 1e-6)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("size", ((224, 224), (320, 512), (100, 90)))
def test_the_feature_is_dinos_class_token_at_any_size(size, tmp_path):
    state = save_vit(tmp_path)
    frames = random_frames(3, *size, 3)
    encoder = Dino(tmp_path, CPU)
    found = encoder(frames)
    wanted = F.normalize(dino(state, prepare(frames, encoder.path).double()), dim=-1)
    assert found.shape == (3, 32)
    assert torch.allclose(found.double(), wanted, atol=ORACLE_ATOL)


def test_frames_are_resized_as_torchs_float_frames_without_smoothing():
    frames = random_frames(2, 320, 512, 3)
    path = FramePath(resampling="bilinear", mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4))
    found = prepare(frames, path)
    assert found.shape == (2, 3, 224, 358)
    # The middle of output pixel (0, 0) lies at 320 / 224 / 2 - 0.5 = 0.214 rows, 512 / 358 / 2 - 0.5 = 0.215 columns.
    y, x = 320 / 224 / 2 - 0.5, 512 / 358 / 2 - 0.5
    corner = frames[0, :2, :2].astype(np.float64)
    mixed = (1 - y) * ((1 - x) * corner[0, 0] + x * corner[0, 1]) + y * ((1 - x) * corner[1, 0] + x * corner[1, 1])
    wanted = (mixed / 255 - np.array(path.mean)) / np.array(path.deviation)
    assert np.allclose(found[0, :, 0, 0].double(), wanted, atol=1e-5)
    square = prepare(frames, path.model_copy(update={"crop": 224}))
    assert torch.equal(square, found[..., 67:291])


def test_consistency_is_the_mean_with_the_frame_before_and_the_first():
    features = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    half = 0.5**0.5
    assert consistency(features) == pytest.approx((half + (half + 0) / 2 + (0 + 0) / 2) / 3)
    assert consistency(features[:1].expand(4, 2)) == pytest.approx(1)
    with pytest.raises(DataError, match="wanted 2"):
        consistency(features[:1])


@pytest.mark.slow
def test_only_dinos_shape_and_pixels_have_vbenchs_name(tmp_path):
    save_vit(tmp_path)
    encoder = Dino(tmp_path, CPU)
    assert not encoder.is_vbenchs and encoder.name == "vit (32, patch 32)"
    stored = load_file(tmp_path / "model.safetensors")
    digests = sorted(sha256(f"{tuple(v.shape)}\n".encode() + v.numpy().tobytes()).digest() for v in stored.values())
    assert encoder.sha256 == sha256(b"".join(digests)).hexdigest()
    other = tmp_path / "other"
    save_vit(other, hidden_size=64)
    assert Dino(other, CPU).sha256 != encoder.sha256
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    assert Dino(tmp_path, CPU).path.mean == (0.5, 0.5, 0.5)


@pytest.mark.slow
def test_dino_of_the_shape_of_vbenchs_is_taken_for_it(tmp_path, monkeypatch):
    save_vit(tmp_path)
    config = {key: value for key, value in DINO_B16.items() if key in TINY}
    for key in config:
        monkeypatch.setitem(DINO_B16, key, TINY[key])
    assert Dino(tmp_path, CPU).is_vbenchs
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    assert not Dino(tmp_path, CPU).is_vbenchs


@pytest.mark.slow
def test_dinov2_is_a_proxy(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    encoder = Dino(tmp_path, CPU)
    assert not encoder.is_vbenchs and encoder(random_frames(2, 40, 60, 3)).shape == (2, 32)


@pytest.mark.slow
def test_folders_that_are_no_dino_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        Dino(tmp_path, CPU)
    save_vit(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"weights are missing, as layers.2"):
        Dino(tmp_path, CPU)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_std": [0.5, 0.5, 0]}))
    with pytest.raises(CheckpointError, match="those of image_std above 0"):
        Dino(tmp_path, CPU)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": 0.5}))
    with pytest.raises(CheckpointError, match="wanted three numbers"):
        Dino(tmp_path, CPU)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "resnet"}))
    with pytest.raises(CheckpointError, match=r"model_type resnet: wanted vit \(DINO\) or dinov2"):
        Dino(tmp_path, CPU)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="wanted an object"):
        Dino(tmp_path, CPU)
    save_vit(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    weights = load_file(tmp_path / "model.safetensors")
    weights["layernorm.bias"][0] = torch.nan
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"--dino .*: layernorm\.bias holds NaN or infinity"):
        Dino(tmp_path, CPU)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="no weights that can be read"):
        Dino(tmp_path, CPU)


@pytest.mark.slow
def test_clips_feature_is_transformers_embedding_of_the_cropped_frame(tmp_path, monkeypatch):
    from transformers import CLIPVisionModelWithProjection

    write_clip(tmp_path)
    encoder = ClipFrames(tmp_path, CPU)
    frames = random_frames(3, 40, 64, 3)
    x = torch.from_numpy(frames).movedim(-1, 1).float()
    x = F.interpolate(x, (SIDE, 51), mode="bicubic")[..., 10 : 10 + SIDE] / 255  # (51 - 32) / 2 = 9.5, to the even 10
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (encoder.path.mean, encoder.path.deviation))
    model = CLIPVisionModelWithProjection.from_pretrained(tmp_path, local_files_only=True)
    with torch.no_grad():
        wanted = F.normalize(model(pixel_values=(x - mean) / deviation).image_embeds, dim=-1)
    assert torch.allclose(encoder(frames), wanted, atol=ORACLE_ATOL)

    assert not encoder.is_vbenchs and encoder.name == "clip (128, patch 8)"
    shape = model.config.to_dict()
    for key in CLIP_B32:
        monkeypatch.setitem(CLIP_B32, key, shape[key])
    assert ClipFrames(tmp_path, CPU).is_vbenchs
    monkeypatch.setitem(CLIP_B32, "hidden_act", "gelu")
    assert not ClipFrames(tmp_path, CPU).is_vbenchs


def test_a_folder_that_is_no_clip_is_refused_by_the_option_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match=r"^--clip .*no config.json"):
        ClipFrames(tmp_path, CPU)
