"""What the guard lets in, and that of 50 forged requests and 500 paths out of the page's own none gets through."""

import itertools

import pytest

from lavie.pages.serving.guard import HEADERS, Guard
from tests.pages.asgi import HOST, OURS, PORT, TOKEN, ask

REACHED = b"reached"


def app(seen):
    """An application that notes the requests that reach it."""

    async def answer(scope, receive, send):
        seen.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": REACHED})

    return answer


@pytest.fixture
def guarded():
    seen = []
    return Guard(app(seen), port=PORT, token=TOKEN), seen


def without(*names, **changed):
    return {name: value for name, value in (OURS | changed).items() if name not in names}


HOSTS = (
    "", "evil.example", f"evil.example:{PORT}", "127.0.0.1", "localhost", f"127.0.0.1:{PORT + 1}", f"127.0.0.2:{PORT}",
    f"0.0.0.0:{PORT}", f"[::1]:{PORT}", f"127.0.0.1.evil.example:{PORT}", f"localhost.evil.example:{PORT}",
    f"127.1:{PORT}", f"2130706433:{PORT}", f"0x7f000001:{PORT}", f"user@127.0.0.1:{PORT}", f"127.0.0.1:{PORT}@evil",
    f"127.0.0.1:0{PORT}", f"127.0.0.1:{PORT}, evil.example", f" 127.0.0.1:{PORT}.", f"localhost.:{PORT}",
)  # fmt: skip
ORIGINS = (
    "null", "", "http://evil.example", "https://evil.example", "http://127.0.0.1", "http://localhost", f"https://{HOST}",
    f"http://127.0.0.1:{PORT + 1}", f"http://localhost:{PORT}", f"http://{HOST}/", f"http://{HOST}.evil.example",
    f"http://evil.example#{HOST}", f"http://user@{HOST}", f"HTTP://{HOST}", f"http://{HOST} ", f"{HOST}", "file://",
    "chrome-extension://abc", f"http://127.0.0.1:{PORT}0",
)  # fmt: skip
TOKENS = ("", "a-toke", "a-token-", "A-TOKEN", "a-token ", "null", "undefined")


def forged():
    """Requests that another page, another user or another machine would send: name -> headers."""
    found = {f"host {host!r}": OURS | {"host": host, "origin": f"http://{host}"} for host in HOSTS}
    found |= {f"origin {origin!r}": OURS | {"origin": origin} for origin in ORIGINS}
    found |= {f"token {token!r}": OURS | {"x-lavie-token": token} for token in TOKENS}
    found |= {f"without {name}": without(name) for name in ("host", "origin", "x-lavie-token")}
    found |= {f"{name} twice": [*OURS.items(), (name, OURS[name])] for name in ("host", "origin", "x-lavie-token")}
    return found


def test_of_50_forged_requests_none_gets_through(guarded):
    guard, seen = guarded
    requests = forged()
    assert len(requests) >= 50
    through = [name for name, headers in requests.items() if ask(guard, "POST", "/api/jobs", headers).status == 200]
    assert through == [] and seen == []


def test_the_page_itself_gets_through(guarded):
    guard, seen = guarded
    localhost = f"localhost:{PORT}"
    assert ask(guard, "POST", "/api/jobs").body == REACHED
    assert ask(guard, "POST", "/api/jobs", OURS | {"host": localhost, "origin": f"http://{localhost}"}).body == REACHED
    assert ask(guard, "GET", "/", {"host": HOST}).body == REACHED
    assert ask(guard, "GET", f"/api/events?token={TOKEN}", {"host": HOST}).body == REACHED
    assert len(seen) == 4


@pytest.mark.parametrize(
    "method, target, headers",
    (
        ("GET", "/api/gallery", {"host": HOST}),
        ("GET", "/api/events?token=b", {"host": HOST}),
        ("GET", f"/api/events?token={TOKEN}&token={TOKEN}", {"host": HOST}),
        ("POST", f"/api/jobs?token={TOKEN}", {"host": HOST, "origin": f"http://{HOST}"}),
        ("POST", "/clips/x", {"host": HOST, "origin": f"http://{HOST}"}),
        ("PUT", "/api/jobs", OURS),
        ("DELETE", "/clips/x", OURS),
        ("OPTIONS", "/api/jobs", OURS),
        ("GET", "/" + "a" * 5000, OURS),
    ),
)
def test_other_requests_are_refused_in_a_line(guarded, method, target, headers):
    guard, seen = guarded
    reply = ask(guard, method, target, headers)
    assert 400 <= reply.status < 500 and seen == [] and len(reply.body.splitlines()) == 1


def test_every_answer_has_the_policy(guarded):
    guard, _ = guarded
    for headers in (OURS, {"host": "evil.example"}):
        assert ask(guard, headers=headers).headers.items() >= HEADERS.items()
    assert "unsafe" not in HEADERS["content-security-policy"]
    assert "access-control-allow-origin" not in ask(guard).headers


def test_websockets_are_not_answered(guarded):
    guard, seen = guarded
    with pytest.raises(StopIteration):
        guard({"type": "websocket"}, None, None).send(None)
    assert seen == []


def test_the_forgeries_are_all_different():
    """So that 50 are 50."""
    shown = [sorted(headers.items() if isinstance(headers, dict) else headers) for headers in forged().values()]
    assert all(a != b for a, b in itertools.combinations(shown, 2))
