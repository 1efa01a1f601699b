from django.apps import AppConfig


class ExperimentsConfig(AppConfig):
    name = "experiments"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "Experiments"

    def ready(self) -> None:
        from . import files, run_values  # noqa: F401 - their receivers follow rows that are deleted
