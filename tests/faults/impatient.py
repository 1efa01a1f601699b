"""The project's settings with a broker that takes a message for lost after five seconds (F23)."""

from kdweb.settings import *  # noqa: F403
from kdweb.settings import CELERY_BROKER_TRANSPORT_OPTIONS

CELERY_BROKER_TRANSPORT_OPTIONS = CELERY_BROKER_TRANSPORT_OPTIONS | {
    "visibility_timeout": 5,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
