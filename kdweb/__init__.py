"""Wiring only: settings, addresses, the ASGI and Celery entry points, and the small supervisor."""
