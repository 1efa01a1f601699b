"""The web process: `uvicorn kdweb.asgi:application`."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kdweb.settings")
os.environ.setdefault("KDWEB_PROCESS", "web")

from django.core.asgi import get_asgi_application

application = get_asgi_application()
