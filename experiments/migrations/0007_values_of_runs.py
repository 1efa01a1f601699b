"""Runs from before can be sought by their parameters and results like those that come."""

from django.db import migrations

AT_ONCE = 500


def fill(apps, schema_editor):
    from experiments import run_values

    Run, RunValue = (apps.get_model("experiments", name) for name in ("Run", "RunValue"))
    keys = list(Run.objects.order_by("pk").values_list("pk", flat=True))
    for begin in range(0, len(keys), AT_ONCE):
        runs = Run.objects.filter(pk__in=keys[begin : begin + AT_ONCE]).select_related(*run_values.NEEDED)
        rows = (row for run in runs.defer("metrics", "notes") for row in run_values.rows(run, RunValue))
        RunValue.objects.bulk_create(rows, batch_size=1000, ignore_conflicts=True)


class Migration(migrations.Migration):

    dependencies = [("experiments", "0006_seen_at_once")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
