"""What runs on the machines that train: Celery's edge, the supervisor, and the engine."""
