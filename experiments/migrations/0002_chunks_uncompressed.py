"""Chunks are compressed already: PostgreSQL shall not try again at every write."""

from django.db import migrations


def store_as_it_is(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        table = apps.get_model("experiments", "MetricChunk")._meta.db_table
        schema_editor.execute(f'ALTER TABLE "{table}" ALTER COLUMN data SET STORAGE EXTERNAL')


class Migration(migrations.Migration):
    dependencies = [("experiments", "0001_initial")]
    operations = [migrations.RunPython(store_as_it_is, migrations.RunPython.noop)]
