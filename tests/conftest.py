"""What several test files share: private servers, each started once in a test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kdweb import embedded_redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own, on a unix socket."""
    with embedded_redis.running(tmp_path_factory.mktemp("redis")) as url:
        yield url
