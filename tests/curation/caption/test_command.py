"""A captioner that is a program: what it is asked, and what becomes of one that dies, hangs or talks."""

import base64
import io
import json
import shlex
import sys
import time

import numpy as np
import pytest
from PIL import Image

from lavie.config.curate_caption import CaptionConfig
from lavie.curation.caption.base import Asked, NoCaption
from lavie.curation.caption.command import HEARD, LONGEST, TOLD, CommandCaptioner
from lavie.errors import ConfigError, DataError

HEAD = "import json, os, sys, time\nfor line in sys.stdin:\n    asked = json.loads(line)\n    clip = asked['clip']\n"
ANSWER = "print(json.dumps({'clip': clip, 'caption': f'seen {clip}'}), flush=True)"


@pytest.fixture
def captioner(tmp_path):
    """Provide a function that makes a captioner of the body of a program's loop; all are stopped at the end."""
    made = []

    def make(body: str, seconds: float = 20.0, head: str = HEAD) -> CommandCaptioner:
        script = tmp_path / f"program {len(made)}.py"
        script.write_text(head + "".join(f"    {line}\n" for line in body.splitlines()))
        made.append(CommandCaptioner(shlex.join([sys.executable, str(script)]), CaptionConfig(seconds=seconds)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def clip(name: str, height: int = 4) -> Asked:
    pictures = np.random.default_rng(0).integers(0, 256, (2, height, 6, 3), np.uint8)
    return Asked(dict.fromkeys(TOLD) | {"clip": name, "film": "ä.mp4", "t0": 1.5, "offset": 7}, pictures)


def test_it_is_asked_with_exact_pictures_and_answers_for_each_clip(captioner, tmp_path):
    log = tmp_path / "log"
    ask = captioner(f"open({str(log)!r}, 'a').write(line)\n{ANSWER}")
    assert ask([clip("a"), clip("b")]) == ["seen a", "seen b"]
    assert ask([clip("c")]) == ["seen c"]
    asked = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["clip"] for one in asked] == ["a", "b", "c"]
    assert set(asked[0]) == {*TOLD, "prompt", "pictures"} and asked[0]["film"] == "ä.mp4" and asked[0]["t0"] == 1.5
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in asked[0]["pictures"]]
    np.testing.assert_array_equal(pictures, clip("a").pictures)


def test_it_may_say_why_there_is_no_caption(captioner):
    ask = captioner("print(json.dumps({'clip': clip, 'error': 'too dark'}), flush=True)")
    [found] = ask([clip("a")])
    assert isinstance(found, NoCaption) and found.reason == "no caption" and "too dark" in found.detail


def test_what_it_writes_to_standard_error_is_read_and_its_end_is_kept(captioner):
    flood = "sys.stderr.write('x' * 3_000_000 + 'last words'); sys.stderr.flush()"
    ask = captioner(f"{flood}\n{ANSWER}\nif clip == 'b': os._exit(3)")
    large = clip("a", height=2000)  # more than pipes hold, both ways
    assert ask([large]) == ["seen a"]
    with pytest.raises(DataError, match=r"ended at clip c, exit code 3; its last words: x+last words$") as error:
        ask([clip("b"), clip("c")])
    assert len(str(error.value)) < HEARD + 200


def test_one_that_talks_before_it_listens_is_heard(captioner):
    """Both pipes are full at once: neither side may wait for the other."""
    ask = captioner(ANSWER, head=HEAD.replace("for line", "sys.stderr.write('x' * 3_000_000)\nfor line"))
    assert ask([clip("a", height=2000)]) == ["seen a"]


@pytest.mark.parametrize(
    "body, message",
    (
        ("os._exit(5)", "ended at clip a, exit code 5"),
        ("os.kill(os.getpid(), 9)", "ended at clip a, killed by SIGKILL"),
        ("raise SystemError('no memory')", "(?s)exit code 1; its last words: .*no memory$"),
        ("os.close(1); time.sleep(60)", "ended at clip a$"),
        ("time.sleep(60)", "gave no answer within 2 s at clip a"),
        (f"print('x' * {LONGEST + 1000}, end='', flush=True); time.sleep(60)", "more than .* bytes in one line"),
        ("print('loading model', flush=True)", "wrote 'loading model' for clip a: wanted a line of JSON"),
        ("print('[' * 100_000, flush=True)", r"wrote '\[+' for clip a"),
        ("print(json.dumps({'clip': 'z', 'caption': 'x'}), flush=True)", "for clip a: wanted a line of JSON"),
        ("print(json.dumps({'clip': clip, 'caption': 3}), flush=True)", "wanted caption, a text, or error"),
        (f"print('one\\ntwo', flush=True)\n{ANSWER}", "wrote 'one' for clip a"),
    ),
)
def test_one_that_misbehaves_is_stopped_and_started_anew(captioner, tmp_path, body, message):
    once = tmp_path / "once"
    trouble = "\n".join(f"    {line}" for line in body.splitlines())
    ask = captioner(
        f"if not os.path.exists({str(once)!r}):\n    open({str(once)!r}, 'w').close()\n{trouble}\n{ANSWER}",
        2.0 if "no answer" in message else 20.0,
    )
    with pytest.raises(DataError, match=message):
        ask([clip("a"), clip("b")])
    assert ask([clip("b")]) == ["seen b"]


def test_more_lines_than_questions_are_noticed_at_the_next_one(captioner):
    ask = captioner(f"{ANSWER}\nprint('and more', flush=True)\ntime.sleep(0.2)")
    assert ask([clip("a")]) == ["seen a"]
    with pytest.raises(DataError, match=r"wrote 'and more"):
        ask([clip("b")])


def test_what_it_has_started_is_stopped_with_it(captioner, tmp_path):
    pid = tmp_path / "pid"
    child = f"import subprocess; open({str(pid)!r}, 'w').write(str(subprocess.Popen(['sleep', '300']).pid))"
    ask = captioner(f"{child}\ntime.sleep(300)", seconds=2.0)
    with pytest.raises(DataError):
        ask([clip("a")])
    deadline = time.monotonic() + 30  # a busy machine takes its time to end a process that was killed
    while _lives(pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(pid: str) -> bool:
    """Return whether a process runs; one that has ended and whose exit code nobody has asked for does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_is_none_is_refused(captioner):
    with pytest.raises(ConfigError, match="No closing quotation"):
        CommandCaptioner("'a", CaptionConfig())
    with pytest.raises(ConfigError, match=r"command:/no/such/program --fast: .*No such file"):
        CommandCaptioner("/no/such/program --fast", CaptionConfig())([clip("a")])
