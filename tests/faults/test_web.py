"""What people send: when the broker is away, twice, from two tabs, and while the web process dies."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import threading
import uuid
from collections.abc import Callable
from urllib.parse import urlencode

import pytest

from experiments.models import Run, Upload

from .person import Answer, Client
from .site import Site
from .workers import WebProcess

pytestmark = [pytest.mark.timeout(300)]
quick = pytest.mark.server  # a few seconds: `make test` runs them too


def form(site: Site, name: str, epochs: int = 1) -> dict[str, str]:
    """A control of resnet8 on the digits, as the browser sends it."""
    typed = {"epochs": epochs, "batch_size": 128, "learning_rate": 0.05, "seed": 0, "optimizer": "sgd"}
    typed |= {"momentum": 0.9, "weight_decay": 0.0005, "schedule": "cosine", "warmup_epochs": 0}
    return {
        "purpose": "control",
        "name": name,
        "dataset": str(site.digits.pk),
        "network": "resnet8",
        "task_weight": "1",
        "label_smoothing": "0",
        "seeds": "1",
        "control": "none",
        "submission": str(uuid.uuid4()),
    } | {f"training-{field}": str(value) for field, value in typed.items()}


def started(answer: Answer, name: str) -> Run:
    """The one run of that name, which the answer leads to."""
    assert answer.status == 302, re.findall(r'role="alert">([^<]+)', answer.text)
    run = Run.objects.get(name=name)
    assert answer.location == f"/runs/{run.pk}/"
    return run


@pytest.mark.faults
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_f22_broker_down_at_submit(make_site: Callable[..., Site], how: str) -> None:
    """submit at the form while Redis is gone or answers nobody → saved, said to be queued; sent later."""
    site = make_site()
    ann = site.web().start().client("ann")
    site.broker.kill() if how == "killed" else site.broker.freeze()
    run = started(ann.post("/runs/new/", form(site, "sent into the void")), "sent into the void")
    page = ann.get(f"/runs/{run.pk}/")
    assert page.status == 200
    assert "is queued" in page.text
    site.broker.start() if how == "killed" else site.broker.thaw()
    site.worker().start()
    site.succeeded(run)
    assert site.outcomes(run) == ["succeeded"]
    site.assert_same(run)


@quick
def test_f51_double_submit_two_tabs_and_the_back_button(office: Site, ann: Client) -> None:
    """one form sent six times at once, and again later → one run, and every answer leads to it."""
    sent = form(office, "double click")
    answers: list[Answer] = []
    posts = [threading.Thread(target=lambda: answers.append(ann.post("/runs/new/", sent))) for _ in range(6)]
    for post in posts:
        post.start()
    for post in posts:
        post.join()
    answers.append(ann.post("/runs/new/", sent))
    assert len(answers) == 7
    assert len({started(answer, "double click").pk for answer in answers}) == 1
    assert Run.objects.get(name="double click").events.count() == 1
    other = form(office, "another tab")
    assert started(ann.post("/runs/new/", other), "another tab").name == "another tab"


@quick
def test_f51_stopping_twice_is_stopping_once(office: Site, ann: Client) -> None:
    """stop a queued run six times at once → cancelled, and one event says so."""
    run = office.start_run("stop twice")
    posts = [threading.Thread(target=ann.post, args=(f"/runs/{run.pk}/stop",)) for _ in range(6)]
    for post in posts:
        post.start()
    for post in posts:
        post.join()
    run.refresh_from_db()
    assert run.status == "cancelled"
    assert run.events.filter(status="cancelled").count() == 1


# --- The web process dies ---------------------------------------------------------------------------------
class HalfSent:
    """A request whose body is sent in parts, over a socket of its own."""

    def __init__(self, person: Client, method: str, path: str, body: bytes, content_type: str) -> None:
        self.body, self.sent = body, 0
        lines = person._headers() | {"Host": f"127.0.0.1:{person.port}", "Content-Type": content_type}
        lines |= {"Content-Length": str(len(body)), "Connection": "close"}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        self.socket = socket.create_connection(("127.0.0.1", person.port), timeout=30)
        self.socket.sendall(f"{head}\r\n".encode())

    def send(self, count: int) -> None:
        self.socket.sendall(self.body[self.sent : self.sent + count])
        self.sent += count

    def ended(self) -> bool:
        """The server is gone without an answer."""
        try:
            return self.socket.recv(1) == b""
        except OSError:
            return True


@quick
def test_f50_web_killed_in_the_middle_of_a_form(office: Site, web: WebProcess, ann: Client) -> None:
    """SIGKILL while half a form is there → no run; started again, the same form makes one."""
    sent = form(office, "cut off")
    half = HalfSent(ann, "POST", "/runs/new/", urlencode(sent).encode(), "application/x-www-form-urlencoded")
    half.send(60)
    web.kill()
    assert half.ended()
    assert not Run.objects.filter(name="cut off").exists()
    web.start()
    run = started(ann.post("/runs/new/", sent), "cut off")
    assert office.events(run) == ["Submitted."]


@quick
def test_f50_web_killed_while_forms_are_worked_on(office: Site, web: WebProcess, ann: Client) -> None:
    """SIGKILL among eight posts → each run is there whole or not at all; sent again, each is there once."""
    forms = {f"killed at {n}": form(office, f"killed at {n}") for n in range(8)}

    def post(sent: dict[str, str]) -> None:
        try:
            ann.post("/runs/new/", sent)
        except (OSError, http.client.HTTPException):
            return  # that is what is meant

    posts = [threading.Thread(target=post, args=(sent,)) for sent in forms.values()]
    for one in posts:
        one.start()
    office.wait_for(lambda: Run.objects.filter(name__in=forms).exists(), 30)
    web.kill()
    for one in posts:
        one.join()
    for run in Run.objects.filter(name__in=forms):
        assert (run.status, office.events(run)) == ("queued", ["Submitted."])
    web.start()
    for name, sent in forms.items():
        run = started(ann.post("/runs/new/", sent), name)
        assert (run.status, office.events(run)) == ("queued", ["Submitted."])


@quick
def test_f50_web_killed_in_the_middle_of_an_upload(office: Site, web: WebProcess, ann: Client) -> None:
    """SIGKILL while a piece arrives → that piece does not count, the next try goes on from what does."""
    content = bytes(range(256)) * 8192  # 2 MiB
    half = len(content) // 2
    about = {"name": "cut off", "kind": "image_folder", "filename": "a.zip", "size": len(content)}
    answer = ann.post("/uploads/start/dataset", about)
    assert answer.status == 201, answer.text
    url, upload = answer.json["url"], Upload.objects.get(pk=answer.json["id"])
    assert ann.put(f"{url}piece?offset=0", content[:half]).json["received"] == half
    piece = HalfSent(ann, "PUT", f"{url}piece?offset={half}", content[half:], "application/octet-stream")
    piece.send(half // 2)
    web.kill()
    assert piece.ended()
    web.start()
    state = ann.send("GET", url, headers={"Accept": "application/json"}).json
    assert (state["received"], state["status"]) == (half, "receiving")
    done = ann.put(f"{url}piece?offset={half}", content[half:])
    assert done.json == {"received": len(content), "status": "checking"}
    assert hashlib.sha256(upload.path.read_bytes()).digest() == hashlib.sha256(content).digest()
