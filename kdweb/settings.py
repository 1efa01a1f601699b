"""All settings. The environment decides; `.env.example` lists every variable.

A secret may be given as a file instead: `KDWEB_SECRET_KEY_FILE=/run/secrets/key` and so on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django_stubs_ext
import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from kdweb import paths

django_stubs_ext.monkeypatch()  # classes such as ModelAdmin[Team] are generic to the type checker only

env = environ.Env()


def secret(name: str, default: str | None = None) -> str:
    """The variable, or the content of the file that `<name>_FILE` points to."""
    if file := os.environ.get(f"{name}_FILE"):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE = {file!r} cannot be read: {error.strerror}.") from error
    value = os.environ.get(name) or default
    if value is None:
        raise ImproperlyConfigured(f"{name} is not set: set it, or {name}_FILE.")
    return value


def switch(name: str) -> bool:
    """An on/off variable. Anything but 0 or 1 is a mistake, not a no."""
    value = os.environ.get(name, "0")
    if value not in ("0", "1", ""):
        raise ImproperlyConfigured(f"{name} = {value!r}: must be 0 or 1.")
    return value == "1"


def number(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise ImproperlyConfigured(f"{name} = {value!r}: must be a whole number, such as {default}.")
    return int(value)


# --- Places -----------------------------------------------------------------------------------------------
BASE_DIR = paths.CHECKOUT
KDWEB_HOME = paths.home()
KDWEB_DATA = KDWEB_HOME  # datasets, teachers, runs and uploads, each in its folder
KDWEB_LOGS = KDWEB_HOME / "logs"
for name in ("datasets", "teachers", "runs", "uploads", "logs"):
    (KDWEB_HOME / name).mkdir(mode=0o700, exist_ok=True)

# An engine that gives no sign of life for so long is asked for its stacks, ended, and tried again.
KDWEB_HANG_SECONDS = number("KDWEB_HANG_SECONDS", 600)
KDWEB_PORT = number("KDWEB_PORT", 8000)
KDWEB_HTTPS = switch("KDWEB_HTTPS")
# "web" fails fast when the broker is away; a worker waits for it. asgi.py and manage.py say web.
KDWEB_PROCESS: str = env.str("KDWEB_PROCESS", default="worker")
if KDWEB_PROCESS not in ("web", "worker"):
    raise ImproperlyConfigured(f"KDWEB_PROCESS = {KDWEB_PROCESS!r}: must be web or worker.")

# --- Django -----------------------------------------------------------------------------------------------
DEBUG = switch("KDWEB_DEBUG")
SECRET_KEY = secret("KDWEB_SECRET_KEY", default="") or paths.secret_key(KDWEB_HOME)
# The machine's own names always: the container's health check asks by them.
ALLOWED_HOSTS: list[str] = ["localhost", "127.0.0.1", "[::1]", *env.list("KDWEB_ALLOWED_HOSTS", default=[])]
CSRF_TRUSTED_ORIGINS: list[str] = env.list("KDWEB_CSRF_TRUSTED_ORIGINS", default=[])
ROOT_URLCONF = "kdweb.urls"
ASGI_APPLICATION = "kdweb.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "csp",
    "django_htmx",
    "experiments.apps.ExperimentsConfig",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "experiments.middleware.ProbeMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",  # deny by default
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "experiments.middleware.ProjectMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "experiments.context.workplace",
            ]
        },
    }
]

# A page speaks the language chosen in its menu (a cookie remembers it), else the browser's, else English.
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
LANGUAGE_COOKIE_AGE = 5 * 365 * 24 * 3600
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"
TIME_ZONE: str = env.str("KDWEB_TIME_ZONE", default="UTC")
USE_TZ = True

# --- Database ---------------------------------------------------------------------------------------------
SQLITE_OPTIONS = {
    # IMMEDIATE takes the write lock when a transaction begins: a later upgrade would fail at once as "locked"
    # whatever the timeout. WAL lets pages be read while a worker writes.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
}


POSTGRES_OPTIONS = {
    # A server that has vanished is noticed in some twenty seconds, not in TCP's own two hours.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,  # milliseconds without an answer to what was sent
    # A process that was frozen in the middle of a transaction must not hold its rows for ever. Compiling a
    # query takes longer than any of ours runs.
    "options": "-c idle_in_transaction_session_timeout=20s -c jit=off",
}


def database() -> dict[str, Any]:
    url = secret("KDWEB_DATABASE_URL", default="")
    if not url:
        config: dict[str, Any] = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(KDWEB_HOME / "kdweb.sqlite3"),
        }
    else:
        config = environ.Env.db_url_config(url)
    if config.get("ENGINE") == "django.db.backends.sqlite3":
        config["OPTIONS"] = SQLITE_OPTIONS | config.get("OPTIONS", {})
    elif config.get("ENGINE") == "django.db.backends.postgresql":
        config["OPTIONS"] = POSTGRES_OPTIONS | config.get("OPTIONS", {})
    else:
        raise ImproperlyConfigured("KDWEB_DATABASE_URL must start with sqlite:/// or postgres://.")
    # Under ASGI a kept connection belongs to a thread that may never be used again.
    return config | {"CONN_MAX_AGE": 0}


DATABASES = {"default": database()}

# --- People -----------------------------------------------------------------------------------------------
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# --- The browser ------------------------------------------------------------------------------------------
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:", "blob:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = KDWEB_HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^health\.json$"]  # asked from inside, in the clear
if KDWEB_HTTPS:  # a proxy in front ends TLS and sets (never forwards) X-Forwarded-Proto
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("KDWEB_STATIC_ROOT", default=str(KDWEB_HOME / "static")))
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "kdweb.staticfiles.PlotlyFinder",
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "kdweb.staticfiles.HashedStorage"
    },
}
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = DEBUG
KDWEB_UPLOAD_LIMIT = number("KDWEB_UPLOAD_LIMIT", 20 * 1024**3)  # bytes a file
# What teachers said of whole datasets, kept between runs: bytes on disk; the longest unused go first. 0: off.
KDWEB_TEACHER_CACHE = KDWEB_DATA / "teacher-cache"
KDWEB_TEACHER_CACHE_BYTES = number("KDWEB_TEACHER_CACHE_BYTES", 4 * 1024**3)
# Runs in the trash are deleted for good after so many days. 0: never by themselves.
KDWEB_TRASH_DAYS = number("KDWEB_TRASH_DAYS", 30)
# Folders of this machine that members may name as a dataset's source; none unless set.
KDWEB_DATASET_ROOTS = [Path(root) for root in env.list("KDWEB_DATASET_ROOTS", default=[])]
FILE_UPLOAD_TEMP_DIR = str(KDWEB_DATA / "uploads")  # the volume that is meant to be large
FILE_UPLOAD_PERMISSIONS = 0o600

# --- Redis and Celery -------------------------------------------------------------------------------------
# As redis-py reads it: redis://… or unix://…. Without the variable, the private server of `manage.py up`.
KDWEB_REDIS_URL = secret("KDWEB_REDIS_URL", default=f"unix://{paths.runtime_dir(KDWEB_HOME) / 'redis.sock'}")
CELERY_BROKER_URL = KDWEB_REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
    # Without time-outs a half-open connection leaves a worker deaf for ever.
    "socket_timeout": 15,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "queue_order_strategy": "priority",
}
CELERY_TASK_IGNORE_RESULT = True  # no result backend: the database is the truth
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
# Acknowledged at the start, so that no visibility time-out can start a long run twice.
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_DEFAULT_QUEUE = "control"
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_POOL = "prefork"
CELERY_WORKER_CONCURRENCY = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_TIMEZONE = TIME_ZONE
if KDWEB_PROCESS == "web":  # a request must not wait for a broker that is away, or hangs
    CELERY_TASK_PUBLISH_RETRY = False
    CELERY_BROKER_CONNECTION_RETRY = False
    CELERY_BROKER_TRANSPORT_OPTIONS |= {"max_retries": 1, "interval_start": 0}
    CELERY_BROKER_TRANSPORT_OPTIONS |= {"socket_timeout": 2, "socket_connect_timeout": 1}

# --- Log --------------------------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": env.str("KDWEB_LOG_LEVEL", default="INFO")},
    "loggers": {"django": {"handlers": [], "propagate": True}},
}
