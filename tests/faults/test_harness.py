"""The harness itself: what the fault tests rely on."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from experiments.models import Run

from .processes import of_home
from .proxy import Proxy
from .site import Site

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_an_undisturbed_run_is_its_twin(site: Site) -> None:
    """submit and wait → the same weights and curves as the twin's, which trains alone."""
    run = site.ended(site.start_run("undisturbed", epochs=4))
    site.assert_same(run)
    assert site.steps(run) == list(range(1, run.total_steps + 1))
    assert site.outcomes(run) == ["succeeded"]


def test_a_killed_worker_takes_its_children_along_and_its_run_ends_as_its_twin(fresh_site: Site) -> None:
    """SIGKILL worker mid-epoch, another waits → no process left, resumed there, the same result."""
    first = fresh_site.worker("first").start()
    run = fresh_site.start_run("moved", epochs=30)
    fresh_site.running(fresh_site.resumable(run))
    family = first.family()
    second = fresh_site.worker("second").start()
    first.kill(signal.SIGKILL)
    fresh_site.wait_for(lambda: not any(one.is_running() for one in family), 20)
    assert second.alive
    fresh_site.ended(run)
    fresh_site.assert_same(run)
    assert fresh_site.outcomes(run) == ["lost", "succeeded"]


@pytest.mark.parametrize("cut", ["cut", "stall"])
def test_a_proxy_stands_between_a_worker_and_its_servers(make_site: Callable[..., Site], cut: str) -> None:
    """worker behind proxies of Redis and PostgreSQL; broken and healed → it works again."""
    site = make_site("postgresql")
    with Proxy.of_broker(site.broker) as redis, Proxy.of_postgres(site.postgres) as postgres:
        worker = site.worker(KDWEB_REDIS_URL=redis.redis_url, KDWEB_DATABASE_URL=postgres.database_url)
        worker.start()
        for proxy in (redis, postgres):
            getattr(proxy, cut)()
        run = site.start_run(epochs=2)
        with pytest.raises(AssertionError):
            site.running(run, seconds=3)
        for proxy in (redis, postgres):
            proxy.heal()
        assert site.ended(run).status == Run.Status.SUCCEEDED


def test_a_site_leaves_nothing(make_site: Callable[..., Site]) -> None:
    """a site with worker and web ends → no process of it lives, its folders are gone."""
    site = make_site()
    site.worker().start()
    site.web().start()
    assert len(of_home(site.home)) >= 3
    site.__exit__()
    assert of_home(site.home) == []
    assert not site.home.exists()
    assert not site.broker.folder.exists()
