"""The project's settings, on a data folder of their own that goes away with the process."""

import atexit
import os
import shutil
import tempfile

home = tempfile.mkdtemp(prefix="kdweb-test-")
os.environ["KDWEB_HOME"] = home
os.environ["KDWEB_PROCESS"] = "web"
for name in ("KDWEB_DEBUG", "KDWEB_HTTPS", "KDWEB_SECRET_KEY", "KDWEB_REDIS_URL", "KDWEB_ALLOWED_HOSTS"):
    os.environ.pop(name, None)

from kdweb.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # argon2 is slow on purpose
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},  # needs no manifest
}
WHITENOISE_AUTOREFRESH = WHITENOISE_USE_FINDERS = True


@atexit.register
def remove_home(owner: int = os.getpid()) -> None:
    if os.getpid() == owner:
        shutil.rmtree(home, ignore_errors=True)
