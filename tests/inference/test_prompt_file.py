"""Lines of a prompt file: texts, and objects with settings of their own."""

import pytest

from lavie.errors import ConfigError
from lavie.inference.prompt_file import Request, as_requests, read_requests, require_same_stages
from lavie.inference.settings import BaseSettings, CascadeSettings


def write(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_texts_and_objects_may_be_mixed(tmp_path):
    path = write(tmp_path, '\ufeffa fox: "red"\n\n {"prompt": "a (b)", "seed": 7, "guidance_scale": 9}\r\nété\n')
    plain, own, last = read_requests(path, BaseSettings)
    assert (plain.prompt, plain.changes, last.prompt) == ('a fox: "red"', {}, "été")
    assert own.prompt == "a (b)" and own.source.endswith("prompts.txt, line 3")
    settings = BaseSettings(seed=1, num_inference_steps=20, guidance_scale=3)
    assert plain.over(settings) is settings
    assert own.over(settings) == BaseSettings(seed=7, num_inference_steps=20, guidance_scale=9)


def test_settings_of_stages(tmp_path):
    line = '{"prompt": "a", "seed": 3, "negative_prompt": "fog", "vsr": {"noise_level": 80, "seed": 4}}'
    [request] = read_requests(write(tmp_path, line), CascadeSettings)
    settings = request.over(CascadeSettings(base=BaseSettings(num_frames=24)))
    assert (settings.base.seed, settings.interpolation.seed, settings.vsr.seed) == (3, 3, 4)
    assert settings.vsr.noise_level == 80 and settings.base.num_frames == 24
    assert {stage.negative_prompt for _, stage in settings} == {"fog"}
    require_same_stages([request], ("base", "interpolation", "vsr"))
    with pytest.raises(ConfigError, match=r"line 1: stage vsr does not run; drop it, or --stop-after"):
        require_same_stages([request], ("base",))
    require_same_stages([Request("a", {"seed": 3})], ("base",))


def test_a_seed_of_its_own_makes_the_noise_independent_of_the_place():
    assert list(Request("a").indices(5, 2)) == [5, 6]
    assert list(Request("a", {"seed": 1}).indices(5, 2)) == [0, 1]
    assert as_requests(["a", Request("b", {"seed": 1})]) == [Request("a"), Request("b", {"seed": 1})]


@pytest.mark.parametrize(
    "line, kind, words",
    (
        ("{a fox}", BaseSettings, "no JSON: .*as a prompt that begins with a brace needs it too"),
        ('{"seed": 1}', BaseSettings, "prompt is None, wanted a text"),
        ('{"prompt": " "}', BaseSettings, "prompt is ' ', wanted a text"),
        ("\0", BaseSettings, r"'\\x00' holds a NUL character: wanted a text in UTF-8"),
        ('{"prompt": "a\\u0000"}', BaseSettings, "holds a NUL character"),
        ('{"prompt": ["a"]}', BaseSettings, r"prompt is \['a'\], wanted a text"),
        ('{"prompt": "a", "prompt": "b"}', BaseSettings, "'prompt' stands there twice"),
        ('{"prompt": "a", "steps": 9}', BaseSettings, "steps"),
        ('{"prompt": "a", "seed": "x"}', BaseSettings, "seed"),
        ('{"prompt": "a", "guidance_scale": -1}', BaseSettings, "guidance_scale"),
        ('{"prompt": "a", "seed": NaN}', BaseSettings, "NaN is no number of JSON"),
        ('{"prompt": "a", "guidance_scale": 4}', CascadeSettings, "guidance_scale"),
        ('{"prompt": "a", "vsr": {"noise": 4}}', CascadeSettings, "vsr.noise"),
        ('{"prompt": "a", "vsr": 4}', CascadeSettings, "vsr"),
        ('{"prompt": "a", "seed": true}', BaseSettings, "seed is true or false: wanted a number"),
        ('{"prompt": "a", "freeu": [1, true, 1, 1]}', BaseSettings, "freeu.1 is true or false"),
        ('{"prompt": "a", "vsr": {"noise_level": false}}', CascadeSettings, "vsr.noise_level is true or false"),
        ('{"prompt": "a", "guidance_scale": 1e30}', BaseSettings, "guidance_scale: wanted 100 or less"),
        ('{"prompt": "a", "freeu": [1, 1e30, 1, 1]}', BaseSettings, r"freeu: .* of 0 to 10, as"),
    ),
)
def test_faulty_lines_are_named(tmp_path, line, kind, words):
    path = write(tmp_path, "a fox\n" + line)
    with pytest.raises(ConfigError, match=words) as error:
        read_requests(path, kind)
    assert f"--prompt-file {path}, line 2" in str(error.value) and "\n" not in str(error.value)


def test_files_without_prompts_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no line has a prompt"):
        read_requests(write(tmp_path, " \n\n"), BaseSettings)
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    for name in ("x", "absent"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_requests(tmp_path / name, BaseSettings)
