"""What a run has said, line by line."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router

from experiments import console

from . import access
from .schemas import Log, Message

router = Router(tags=["runs"])
LOG_LINES = 2_000


@router.get("/runs/{int:run_id}/log", response={200: Log, 400: Message, 404: Message})
def read_log(
    request: HttpRequest,
    run_id: int,
    after: Annotated[int, Query(ge=-1)] = -1,
    before: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    q: Annotated[str, Query(max_length=200)] = "",
    level: str = "",
    limit: Annotated[int, Query(ge=1, le=LOG_LINES)] = LOG_LINES,
) -> dict[str, Any]:
    """Console lines numbered above `after`, or the last ones below `before`; oldest first, in either case.

    `q`: only those with this text, in upper or lower case. `level`: `warning` (and errors) or `error` only.
    `more`: there are further lines in that direction.
    """
    run = access.run_of(request, run_id)
    lines = console.Sought(q, level).lines(run)
    if before is None:
        found, more = console.following(lines, after, limit)
    else:
        found, more = console.newest(lines.filter(n__gt=after), before, limit)
    return {"lines": found, "more": more}
