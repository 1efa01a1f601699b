"""The tables as the migrations make them."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection

from experiments.models import MetricChunk

pytestmark = pytest.mark.django_db


def test_the_migrations_make_the_models_of_today() -> None:
    call_command("makemigrations", "--check", "--dry-run")


def test_postgresql_does_not_compress_chunks_again() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL compresses columns by itself; tests/test_postgres.py runs this there")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attstorage FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'data'",
            [MetricChunk._meta.db_table],
        )
        assert cursor.fetchone()[0] in ("e", b"e")
