#!/usr/bin/env python
"""Django's command line: `manage.py up`, `manage.py doctor`, `manage.py migrate` …"""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kdweb.settings")
    os.environ.setdefault("KDWEB_PROCESS", "web")
    try:
        from django.core.management import execute_from_command_line
    except ImportError as error:
        raise SystemExit(f"{error}. Use the virtual environment: `make demo` creates .venv.") from error
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
