"""Which captioner is meant, and what counts as another one."""

import pytest

from lavie.config.curate_caption import CaptionConfig
from lavie.curation.caption.choice import captioner_identity, folder_identity, open_captioner
from lavie.errors import CheckpointError, ConfigError


def test_what_is_no_such_network_is_refused(tmp_path):
    for captioner in ("transformers", "vllm"):
        with pytest.raises(CheckpointError, match="no such folder; wanted a network on the disk, for none is fetched"):
            open_captioner(CaptionConfig(captioner=f"{captioner}:org/model"), tmp_path)
    with pytest.raises(CheckpointError, match="no network that writes text about pictures"):
        open_captioner(CaptionConfig(captioner=f"transformers:{tmp_path}"), tmp_path)
    with pytest.raises(ConfigError, match=r"caption.captioner is not set"):
        open_captioner(CaptionConfig(), tmp_path)
    with pytest.raises(ConfigError, match=r"command:describe --fast: no program describe"):
        open_captioner(CaptionConfig(captioner="command:describe --fast"), tmp_path)
    for captioner in ("blip", "transformers:", "vllm", "command: ", "sidecar:", ""):
        with pytest.raises(ValueError, match="is no captioner: wanted texts beside the films"):
            CaptionConfig(captioner=captioner)


def test_a_network_is_known_by_its_files(tmp_path):
    def written(data: bytes) -> str | None:
        (tmp_path / "a/sub").mkdir(parents=True, exist_ok=True)
        (tmp_path / "a/config.json").write_text("{}")
        (tmp_path / "a/sub/weights").write_bytes(data)
        return folder_identity(str(tmp_path / "a"))

    large = bytearray(3 << 20)
    seen = {written(bytes(large)), written(b""), written(b"x")}
    large[0] = 1
    seen.add(written(bytes(large)))
    large[-1] = 1
    seen.add(written(bytes(large)))
    assert len(seen) == 5 and folder_identity(str(tmp_path / "none")) is None
    (tmp_path / "a").rename(tmp_path / "b")
    assert folder_identity(str(tmp_path / "b")) in seen


def test_captions_are_made_anew_for_what_changes_them_and_nothing_else(tmp_path):
    (tmp_path / "network").mkdir()
    (tmp_path / "table.csv").write_text("clip,caption\n")
    (tmp_path / "program.py").write_text("pass")

    def changing(captioner: str, **changes) -> set[str]:
        """Return the settings of which another value makes another captioner."""
        known = captioner_identity(CaptionConfig(captioner=captioner))
        found = {
            name
            for name, value in changes.items()
            if captioner_identity(CaptionConfig.model_validate({"captioner": captioner, name: value})) != known
        }
        for file in tmp_path.rglob("*.*"):
            before = file.read_bytes()
            file.write_bytes(b"changed")
            found |= {file.name} if captioner_identity(CaptionConfig(captioner=captioner)) != known else set()
            file.write_bytes(before)
        return found

    (tmp_path / "network/config.json").write_text("{}")
    settings = dict(frames=3, side=99, prompt="what?", max_tokens=7, batch=2, seconds=5.0, decoders=3)
    looks = {"frames", "side", "prompt"}
    assert changing("sidecar", **settings) == set()
    assert changing(f"sidecar:{tmp_path}/table.csv", **settings) == {"table.csv"}
    assert changing(f"command:python {tmp_path}/program.py", **settings) == looks | {"program.py"}
    for kind in ("transformers", "vllm"):
        assert changing(f"{kind}:{tmp_path}/network", **settings) == looks | {"max_tokens", "config.json"}
    kinds = (f"command:python {tmp_path}/program.py", "command:python", f"vllm:{tmp_path}/network", "sidecar")
    assert len({str(captioner_identity(CaptionConfig(captioner=kind))) for kind in kinds}) == len(kinds)
