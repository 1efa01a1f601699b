from django.apps import AppConfig


class ExperimentsConfig(AppConfig):
    name = "experiments"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "Experiments"

    def ready(self) -> None:
        from . import files  # noqa: F401 - its receivers remove the files of deleted rows
