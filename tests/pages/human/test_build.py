import json
import re

import pytest

from lavie.evaluation.human.key import METRICS
from lavie.evaluation.human.plan import Design
from lavie.evaluation.human.sources import Item, Sources
from lavie.evaluation.human.study import blind
from lavie.pages.human.build import page, policy, write_page
from tests.evaluation.human.studies import some_key, some_sources

MODELS = ("quokka", "wombat", "numbat")


@pytest.fixture(scope="module")
def key():
    return some_key(models=MODELS, raters=4, pairs=5, ratings=3)


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="study">(.*?)</script>', text, re.S)[1])


def test_a_rater_cannot_read_what_a_clip_is(key):
    text = page(key).lower()
    for word in (*MODELS, *(clip.source for clip in key.clips.values()), "lavie"):
        assert word not in text
    for trial in (trial for place in data_of(page(key))["places"] for trial in place):
        assert trial.keys() - {"right"} == {"id", "prompt", "left"}


def test_trials_stand_in_the_page_as_in_the_key(key):
    data = data_of(page(key))
    assert data["study"] == key.study and [metric[0] for metric in data["metrics"]] == list(METRICS)
    shown = [(number, trial) for number, place in enumerate(data["places"]) for trial in place]
    assert len(shown) == len(key.trials)
    for number, trial in shown:
        known = key.trials[trial["id"]]
        assert (known.place, known.left, known.right) == (number, trial["left"], trial.get("right"))
        assert data["prompts"][trial["prompt"]] == key.items[key.clips[known.left].item].prompt


def test_prompts_cannot_leave_their_element():
    words = '</script><script>alert("{{style}}")</script> & <!-- "'
    sources = some_sources(prompts=1)
    key = blind(Sources([Item(words, 0)], sources.clips, {}), Design(raters=2), seed=0)
    text = page(key)
    assert data_of(text)["prompts"] == [words]
    assert text.count("</script>") == 2 and "alert(" in text


def test_nothing_but_the_page_itself_may_run_or_load(key):
    text = page(key)
    [shown] = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)">', text)
    [style], script = (
        re.findall("<style>(.*?)</style>", text, re.S),
        re.findall(r"<script>(.*?)</script>", text, re.S)[-1],
    )
    assert shown == policy(script, style) and shown.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in shown and "http" not in shown
    assert not re.findall(r" (?:src|href|style|on\w+)=", text)
    assert "http://" not in text and "https://" not in text


def test_the_page_is_one_file(tmp_path, key):
    path = write_page(tmp_path, key)
    assert path == tmp_path / "page/index.html" and [p.name for p in path.parent.iterdir()] == ["index.html"]
