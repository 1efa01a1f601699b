"""The application's addresses: the noun, then the verb. Each area keeps its block together."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from experiments import api
from experiments.views import compare, home, live, projects, run, run_new, runs

people = [
    path("login/", LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("project/", projects.project_switch, name="project_switch"),
    path("i18n/", include("django.conf.urls.i18n")),
]

runs_pages = [
    path("", home.home, name="home"),
    path("runs/", runs.run_list, name="run_list"),
    path("runs/csv", runs.run_csv, name="run_csv"),
    path("runs/stop", runs.run_bulk_stop, name="run_bulk_stop"),
    path("runs/new/", run_new.run_new, name="run_new"),
    path("runs/new/check", run_new.run_check, name="run_check"),
    path("runs/new/term", run_new.run_term, name="run_term"),
    path("runs/new/objective", run_new.run_objective, name="run_objective"),
    path("runs/new/teachers", run_new.run_teachers, name="run_teachers"),
    path("runs/new/networks", run_new.run_networks, name="run_networks"),
    path("runs/<int:pk>/", run.run_detail, name="run_detail"),
    path("runs/<int:pk>/summary", run.run_summary, name="run_summary"),
    path("runs/<int:pk>/stop", run.run_stop, name="run_stop"),
    path("runs/<int:pk>/log", run.run_log, name="run_log"),
    path("runs/<int:pk>/files/<int:artifact>", run.run_artifact, name="run_artifact"),
    path("compare/", compare.run_compare, name="run_compare"),
]

live_and_api = [
    path("runs/live", live.runs_live, name="runs_live"),
    path("runs/<int:pk>/live", live.run_live, name="run_live"),
    path("api/", include((api.patterns(), "api"))),
]

urlpatterns = [*live_and_api, *people, *runs_pages]
