"""The web process: `uvicorn kdweb.asgi:application`."""

import os
import socket

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kdweb.settings")
os.environ.setdefault("KDWEB_PROCESS", "web")

from django.core.asgi import get_asgi_application

application = get_asgi_application()

from experiments import sweep  # noqa: E402  (its models need the applications)

sweep.start(f"web@{socket.gethostname()}")
