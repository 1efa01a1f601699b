# Two images from one file:
#   docker build --target web    -t kdweb-web .      about 300 MB, no torch
#   docker build --target worker -t kdweb-worker .   torch with CUDA; for a machine without a GPU add
#       --build-arg TORCH_INDEX=…, the address of PyTorch's own index of CPU wheels

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:$PATH KDWEB_HOME=/data KDWEB_STATIC_ROOT=/srv/static
RUN python -m venv /opt/venv \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin kdweb \
    && install -d -o kdweb -g kdweb -m 0700 /data \
    && install -d -o kdweb -g kdweb /srv/static
WORKDIR /srv/kdweb
# The pinned dependencies alone, so that a change of the code does not install them again.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
open('/tmp/web.txt', 'w').write('\n'.join(p['dependencies'])); \
open('/tmp/worker.txt', 'w').write('\n'.join(p['optional-dependencies']['worker']))" \
    && pip install -r /tmp/web.txt

FROM base AS web
# pg_dump and pg_restore, for manage.py backup and restore.
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client && rm -rf /var/lib/apt/lists/*
COPY manage.py ./
COPY kdweb kdweb
COPY experiments experiments
COPY worker worker
COPY templates templates
COPY locale locale
USER kdweb
# Into the image, hashed and compressed; the throw-away home is for the settings to load.
RUN KDWEB_HOME=/tmp/home python manage.py collectstatic --noinput && rm -rf /tmp/home
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://localhost:8000/healthz', timeout=4)"]
CMD ["python", "-m", "uvicorn", "kdweb.asgi:application", "--host", "0.0.0.0", "--port", "8000", \
     "--loop", "uvloop", "--http", "httptools", "--lifespan", "off", "--timeout-graceful-shutdown", "3"]

FROM base AS worker
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} -r /tmp/worker.txt
COPY manage.py ./
COPY kdweb kdweb
COPY experiments experiments
COPY worker worker
COPY templates templates
COPY locale locale
USER kdweb
ENV KDWEB_PROCESS=worker NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /data
CMD ["python", "-m", "celery", "-A", "kdweb", "worker", "--loglevel", "INFO", "-n", "gpu0@%h", "-Q", "gpu,cpu", \
     "-c", "1", "--without-gossip", "--without-mingle"]
