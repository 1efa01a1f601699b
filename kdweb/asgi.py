"""The web process: `uvicorn kdweb.asgi:application`."""

import ctypes
import os
import socket
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kdweb.settings")
os.environ.setdefault("KDWEB_PROCESS", "web")

from django.core.asgi import get_asgi_application

from kdweb.gate import gated

M_ARENA_MAX = -8  # of mallopt(3)
if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    libc.mallopt(M_ARENA_MAX, 2)  # else every thread's heap keeps what its request once needed

application = gated(get_asgi_application())

from experiments import sweep  # noqa: E402  (its models need the applications)

sweep.start(f"web@{socket.gethostname()}")
