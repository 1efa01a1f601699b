"""A person at the web process, over real HTTP: cookies, CSRF token, forms, uploads, event streams."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

PASSWORD = "correct horse battery"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def location(self) -> str:
        return self.headers.get("location", "")


@dataclass
class Event:
    id: str = ""
    kind: str = "message"
    data: str = ""

    @property
    def frame(self) -> dict[str, Any]:
        return dict(json.loads(self.data)["frame"])


class Stream:
    """An open event stream, as an EventSource holds it."""

    def __init__(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
        self.connection, self.answer = connection, answer
        self.status = answer.status

    def events(self, seconds: float) -> Iterator[Event]:
        """Events as they come; ends with the stream, or after so many seconds."""
        end, event = time.monotonic() + seconds, Event()
        while (left := end - time.monotonic()) > 0 and (line := self._line(left)) is not None:
            name, _, value = line.partition(":")
            if not line:
                if event.data:
                    yield event
                event = Event()
            elif name in ("id", "data", "event"):
                setattr(event, {"event": "kind"}.get(name, name), value.strip())

    def heartbeat(self, seconds: float) -> bool:
        """Whether a comment comes within so many seconds: a proxy then sees that the line is alive."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and (line := self._line(left)) is not None:
            if line.startswith(":"):
                return True
        return False

    def closes(self, seconds: float) -> bool:
        """Whether the server ends it within so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                if self._line(left, raise_late=True) is None:
                    return True
            except TimeoutError:
                return False
        return False

    def _line(self, seconds: float, raise_late: bool = False) -> str | None:
        """A line without its end; None where the stream ended (or, unless told to raise, none came)."""
        if self.connection.sock:
            self.connection.sock.settimeout(max(0.01, seconds))
        try:
            line = self.answer.readline()
        except TimeoutError:
            if raise_late:
                raise
            return None
        except (OSError, http.client.HTTPException):
            return None
        return line.decode().rstrip("\r\n") if line else None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@dataclass
class Client:
    """Somebody with cookies. Every request opens a connection of its own."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    patience: float = 60.0

    def send(
        self, method: str, path: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = self._connection()
        try:
            connection.request(method, path, body, self._headers() | dict(headers or {}))
            answer = connection.getresponse()
            found = Answer(
                answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
            )
            self._keep(answer)
            return found
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, fields: Mapping[str, Any] | list[tuple[str, Any]] = ()) -> Answer:  # type: ignore[assignment]
        return self.send(
            "POST", path, urlencode(fields, doseq=True), {"Content-Type": "application/x-www-form-urlencoded"}
        )

    def post_json(self, path: str, content: Any) -> Answer:
        return self.send("POST", path, json.dumps(content), {"Content-Type": "application/json"})

    def put(self, path: str, body: bytes) -> Answer:
        return self.send("PUT", path, body, {"Content-Type": "application/octet-stream"})

    def stream(self, path: str, after: str = "") -> Stream:
        """An event stream; `after` goes as Last-Event-ID. Whoever opens it closes it."""
        connection = self._connection()
        more = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        connection.request("GET", path, headers=self._headers() | more)
        sock = connection.sock
        answer = connection.getresponse()
        connection.sock = connection.sock or sock  # http.client lets go of it where the answer says close
        return Stream(connection, answer)

    def log_in(self, name: str, password: str = PASSWORD) -> Client:
        assert self.get("/login/").status == 200
        answer = self.post("/login/", {"username": name, "password": password})
        assert answer.status == 302, answer.text[:2000]
        return self

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.patience)

    def _headers(self) -> dict[str, str]:
        kept = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        return kept | {"X-CSRFToken": self.cookies.get("csrftoken", "")}

    def _keep(self, answer: http.client.HTTPResponse) -> None:
        for line in answer.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
