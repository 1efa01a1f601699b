"""Every address. What stands here beside the application's own: the admin and the health check."""

from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.templatetags.static import static
from django.urls import include, path


@login_not_required
def healthz(request: HttpRequest) -> HttpResponse:
    """Says only that this process answers; /health.json and `manage.py doctor` say how the parts are."""
    return HttpResponse("ok\n", content_type="text/plain", headers={"Cache-Control": "no-store"})


@login_not_required
def favicon(request: HttpRequest) -> HttpResponse:
    """Asked for by pages that name no icon of their own, such as the admin's."""
    return redirect(static("img/favicon.svg"))


urlpatterns = [
    path("favicon.ico", favicon),
    path("healthz", healthz, name="healthz"),
    path("admin/", admin.site.urls),
    path("", include("experiments.urls")),
]

handler500 = "experiments.views.errors.server_error"
