"""The Celery application: `celery -A kdweb worker`. Every setting stands in settings.py as CELERY_*."""

import os

from celery import Celery

from kdweb import broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kdweb.settings")
broker.install()

# The tasks are named, not imported: only a worker loads them, the web sends by name.
app = Celery("kdweb", include=["worker.tasks"])
app.config_from_object("django.conf:settings", namespace="CELERY")
