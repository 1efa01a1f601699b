"""Server-sent events: the frames of one run, or of several on one connection."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from asgiref.sync import SyncToAsync, sync_to_async
from django.contrib.auth import get_user
from django.contrib.sessions.backends.base import SessionBase
from django.db import DatabaseError, close_old_connections
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from experiments import stream
from experiments.models import Run

LIFE_SECONDS = 15 * 60  # then the browser comes back: no connection is older than a proxy's patience
ASK_AGAIN = 30.0  # seconds between two looks whether its person may still see the runs
RETRY_MS = 1_000
MAX_RUNS = 100
_STREAM_ID = re.compile(r"\d{1,18}-\d{1,18}")
_CURSOR = re.compile(r"(\d{1,18}):(\d{1,18}-\d{1,18})")


def requested_runs(text: str) -> list[int]:
    """`1,2,3`, each once."""
    try:
        found = list(dict.fromkeys(int(part) for part in text.split(",") if part))
    except ValueError:
        raise ValueError(f"runs = {text[:80]!r}: must be numbers of runs, separated by commas.") from None
    if not found or len(found) > MAX_RUNS:
        raise ValueError(f"runs: {len(found)} runs asked for; name 1 to {MAX_RUNS}.")
    return found


def parse_cursors(text: str, runs: list[int]) -> dict[int, str]:
    """`<run>:<stream id>,…`, as event ids are written; a bare stream id where there is one run."""
    cursors = dict.fromkeys(runs, stream.BEGINNING)
    for part in filter(None, text.split(",")):
        if len(runs) == 1 and _STREAM_ID.fullmatch(part):
            cursors[runs[0]] = part
        elif (match := _CURSOR.fullmatch(part)) is None:
            raise ValueError(f"after = {part[:80]!r}: must be a live event's id: 7:1700000000000-0.")
        elif int(match[1]) in cursors:
            cursors[int(match[1])] = match[2]
    return cursors


def _still_open(user_runs: list[int], request: HttpRequest) -> list[int]:
    """Those of the runs that have not ended. 404 where one is not for this person's eyes."""
    rows = dict(Run.objects.for_user(request.user).filter(pk__in=user_runs).values_list("pk", "status"))
    close_old_connections()  # else every open page would hold a connection to the database
    if len(rows) < len(user_runs):
        raise Http404(_("There is no such run."))
    return [pk for pk in user_runs if rows[pk] not in Run.ENDED]


def _may_still(session: SessionBase, runs: list[int]) -> bool:
    """Whether the session is still that of somebody who may see the runs.

    A logout, a new password, a deactivated account and a lost membership all end it. A database that is away
    says nothing against the person.
    """
    asking = HttpRequest()
    asking.session = type(session)(session.session_key)  # read anew: the request's own remembers its user
    try:
        return Run.objects.for_user(get_user(asking)).filter(pk__in=runs).count() == len(runs)
    except DatabaseError:
        return True
    finally:
        close_old_connections()


@require_GET
async def run_live(request: HttpRequest, pk: int) -> HttpResponseBase:
    return await _live(request, [pk])


@require_GET
async def runs_live(request: HttpRequest) -> HttpResponseBase:
    try:
        runs = requested_runs(request.GET.get("runs", ""))
    except ValueError as error:
        return HttpResponse(str(error), status=400, content_type="text/plain")
    return await _live(request, runs)


async def _live(request: HttpRequest, runs: list[int]) -> HttpResponseBase:
    after = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    try:
        cursors = parse_cursors(after, runs)
    except ValueError as error:
        return HttpResponse(str(error), status=400, content_type="text/plain")
    still_open = await sync_to_async(_still_open)(runs, request)
    if not still_open:
        return HttpResponse(status=204)  # an EventSource takes this as the end
    events = _events(request.session, {pk: cursors[pk] for pk in still_open})
    response = StreamingHttpResponse(events, content_type="text/event-stream")
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"
    return response


async def _events(session: SessionBase, cursors: dict[int, str]) -> AsyncGenerator[bytes, None]:
    """The frames as events, whose id holds the cursor of every run on this connection."""
    _let_thread_go()
    yield f"retry: {RETRY_MS}\n\n".encode()
    now = asyncio.get_running_loop().time
    ends, asks = now() + LIFE_SECONDS, now() + ASK_AGAIN
    async with aclosing(stream.hub().follow(cursors)) as batches:
        async for batch in batches:
            if now() > asks:
                if not await sync_to_async(_may_still)(session, list(cursors)):
                    return
                _let_thread_go()
                asks = now() + ASK_AGAIN
            yield _written(batch, cursors)
            if now() > ends:
                return


def _let_thread_go() -> None:
    """The thread in which Django did this request's work: two hundred idle ones are 20 MB. The next work that
    this request has for one begins another.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context and (executor := SyncToAsync.context_to_thread_executor.pop(context, None)):
        executor.shutdown(wait=False)


def _written(batch: list[stream.Message], cursors: dict[int, str]) -> bytes:
    parts = []
    for message in batch:
        if message.reload:
            parts.append(f"event: reload\ndata: {json.dumps({'run': message.run_id})}\n\n".encode())
            continue
        cursors[message.run_id] = message.stream_id
        event_id = ",".join(f"{run}:{cursor}" for run, cursor in cursors.items())
        parts += (f"id: {event_id}\n".encode(), message.event)
    return b"".join(parts) or b": still here\n\n"
