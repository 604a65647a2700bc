import os
import pickle
import zipfile

import pytest
import torch
from torch.nn import functional as F

from lavie.errors import CheckpointError
from lavie.evaluation.clip_network import openai_file
from lavie.evaluation.clip_network.network import ClipNetwork, ClipTokens, load_clip, model_of
from lavie.evaluation.clip_network.openai_file import read_archive, to_transformers
from lavie.files import sha256_of
from lavie.testing import ORACLE_ATOL
from tests.evaluation.tiny_clip import CONTEXT, END, SIDE, OpenAIClip, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
CPU = torch.device("cpu")
TOKENS = [[END - 1, 5, 9, 100, END], [END - 1, 7, END], [END - 1, *range(20, 20 + CONTEXT - 2), END]]


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def archive(tmp_path_factory, pixels):
    """A traced CLIP in half precision, as OpenAI's files are."""
    path = tmp_path_factory.mktemp("openai") / "ViT-tiny.pt"
    tokens = torch.tensor([TOKENS[0]])
    traced = torch.jit.trace(OpenAIClip().eval(), (pixels, tokens), check_trace=False)
    torch.jit.save(traced.half(), path)
    return path


def test_tensors_are_those_of_the_modules(archive):
    found, wanted = read_archive(archive), OpenAIClip().half().state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in wanted.items())


def test_the_network_computes_what_the_file_does(archive, pixels):
    """Heads, activation, transposed matrices and the place of a text's end, against another implementation."""
    theirs = OpenAIClip().half().float().eval()
    config, state = to_transformers(read_archive(archive), "tiny")
    network = ClipNetwork(model_of(config, state, "tiny"), CPU, "tiny")
    assert (network.side, network.context) == (SIDE, CONTEXT)
    with torch.inference_mode():
        for row, ours in zip(TOKENS, network.embed_tokens(TOKENS), strict=True):
            images, [text] = theirs(pixels, torch.tensor([row]))
            torch.testing.assert_close(ours, F.normalize(text, dim=-1), atol=ORACLE_ATOL, rtol=0)
    torch.testing.assert_close(network.embed_pixels(pixels), F.normalize(images, dim=-1), atol=ORACLE_ATOL, rtol=0)
    assert images.std(dim=0).mean() > 0.05  # they are told apart


def test_a_file_of_another_checksum_is_refused(archive, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"none of OpenAI's files \(ViT-B/32, .*as a folder of transformers"):
        load_clip(archive, CPU)
    monkeypatch.setitem(openai_file.KNOWN, "ViT-tiny", sha256_of(archive))
    network = load_clip(archive, CPU)
    assert network.source == "OpenAI ViT-tiny"
    write_tokenizer(tmp_path)
    assert ClipTokens(tmp_path, network)(["a"])[0][0][-1] == END


def test_known_checksums():
    assert openai_file.KNOWN["ViT-B/32"] == "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    assert openai_file.KNOWN["ViT-L/14"].startswith("b8cca3fd41ae0c99")
    assert {len(digest) for digest in openai_file.KNOWN.values()} == {64}


class Calls:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_code_in_a_file_is_not_run(archive, tmp_path):
    """An archive whose program is broken is read all the same; one whose weights call a function is refused."""
    broken, calls = tmp_path / "broken.pt", tmp_path / "calls.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(broken, "w") as a, zipfile.ZipFile(calls, "w") as b:
        for name in old.namelist():
            a.writestr(name, b"no program" if "/code/" in name else old.read(name))
            b.writestr(name, pickle.dumps(Calls(), protocol=2) if name.endswith("/data.pkl") else old.read(name))
    assert read_archive(broken).keys() == read_archive(archive).keys()
    with pytest.raises(CheckpointError, match=r"calls.pt: no TorchScript archive of weights: it names posix.system"):
        read_archive(calls)


def test_what_is_no_archive_or_no_vision_transformer_is_refused(archive, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"x.pt: no TorchScript archive"):
        read_archive(tmp_path / "x.pt")
    state = read_archive(archive)
    with pytest.raises(CheckpointError, match="tiny: no 'text_projection'"):
        to_transformers({name: value for name, value in state.items() if name != "text_projection"}, "tiny")
    config, theirs = to_transformers(state, "tiny")
    theirs.pop("text_model.final_layer_norm.bias")
    with pytest.raises(CheckpointError, match=r"tiny: 1 weights are missing, as text_model\.final_layer_norm\.bias"):
        model_of(config, theirs, "tiny")


def test_an_archive_made_on_a_gpu_is_read_without_one(archive, tmp_path):
    """OpenAI's tensors say that they lie on cuda:0."""
    moved = tmp_path / "gpu.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(moved, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/data.pkl"):
                # X and a length before the text: the place of a storage in a pickle.
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(name, content)
    assert all(value.device == CPU for value in read_archive(moved).values())
