"""The application's addresses: the noun, then the verb. Each area keeps its block together."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from django.views.i18n import set_language

from experiments import api
from experiments.views import (
    catalogue,
    compare,
    console,
    datasets,
    health,
    home,
    language,
    live,
    palette,
    projects,
    run,
    run_control,
    run_new,
    run_views,
    runs,
    students,
    tags,
    teachers,
    trash,
    uploads,
    workers,
)

people = [
    path("login/", LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("project/", projects.project_switch, name="project_switch"),
    path("language/", login_not_required(set_language), name="set_language"),
    path("language/<str:language>/<str:version>.js", language.script_words, name="script_words"),
]

runs_pages = [
    path("", home.home, name="home"),
    path("runs/", runs.run_list, name="run_list"),
    path("runs/csv", runs.run_csv, name="run_csv"),
    path("runs/complete", runs.run_complete, name="run_complete"),
    path("runs/columns", runs.run_columns, name="run_columns"),
    path("runs/keys", runs.run_keys, name="run_keys"),
    path("runs/views/save", run_views.view_save, name="view_save"),
    path("runs/views/<int:pk>/change", run_views.view_change, name="view_change"),
    path("runs/views/<int:pk>/delete", run_views.view_delete, name="view_delete"),
    path("runs/all/<slug:action>", run_control.run_bulk, name="run_bulk"),
    path("runs/new/", run_new.run_new, name="run_new"),
    path("runs/new/check", run_new.run_check, name="run_check"),
    path("runs/new/term", run_new.run_term, name="run_term"),
    path("runs/new/objective", run_new.run_objective, name="run_objective"),
    path("runs/new/recipe", run_new.run_recipe, name="run_recipe"),
    path("runs/new/teachers", run_new.run_teachers, name="run_teachers"),
    path("runs/new/networks", run_new.run_networks, name="run_networks"),
    path("runs/<int:pk>/", run.run_detail, name="run_detail"),
    path("runs/<int:pk>/summary", run.run_summary, name="run_summary"),
    *(
        path(f"runs/<int:pk>/{action}", run_control.run_act, {"action": action}, name=f"run_{action}")
        for action in ("pause", "resume", "stop")
    ),
    path("runs/<int:pk>/retry", run_control.run_retry, name="run_retry"),
    path("runs/<int:pk>/priority", run_control.run_priority, name="run_priority"),
    path("runs/<int:pk>/delete", run_control.run_delete, name="run_delete"),
    path("runs/<int:pk>/purge", trash.run_purge, name="run_purge"),
    path("runs/<int:pk>/star", tags.run_star, name="run_star"),
    path("runs/<int:pk>/tags", tags.run_tags, name="run_tags"),
    path("runs/<int:pk>/notes", run_control.run_notes, name="run_notes"),
    path("runs/<int:pk>/console", console.run_console, name="run_console"),
    path("runs/<int:pk>/log", console.run_log, name="run_log"),
    path("runs/<int:pk>/files/<int:artifact>", run.run_artifact, name="run_artifact"),
    path("trash/", trash.trash, name="trash"),
    path("trash/empty", trash.trash_empty, name="trash_empty"),
    path("palette", palette.palette_search, name="palette"),
    path("compare/", compare.run_compare, name="run_compare"),
]

catalogue_pages = [
    path("datasets/", datasets.dataset_list, name="dataset_list"),
    path("datasets/new/", datasets.dataset_new, name="dataset_new"),
    path("datasets/<int:pk>/", datasets.dataset_detail, name="dataset_detail"),
    path("datasets/<int:pk>/samples/<int:label>/<int:n>", datasets.dataset_sample, name="dataset_sample"),
    path("datasets/<int:pk>/retry", datasets.dataset_retry, name="dataset_retry"),
    path("datasets/<int:pk>/delete", datasets.dataset_delete, name="dataset_delete"),
    path("teachers/", teachers.teacher_list, name="teacher_list"),
    path("teachers/new/", teachers.teacher_new, name="teacher_new"),
    path("teachers/upload/", teachers.teacher_upload, name="teacher_upload"),
    path("teachers/<int:pk>/", teachers.teacher_detail, name="teacher_detail"),
    path("teachers/<int:pk>/weights", teachers.teacher_weights, name="teacher_weights"),
    path("teachers/<int:pk>/delete", teachers.teacher_delete, name="teacher_delete"),
    path("students/", students.student_list, name="student_list"),
    path("students/new/", students.student_new, name="student_new"),
    path("students/<int:pk>/", students.student_detail, name="student_detail"),
    path("students/<int:pk>/delete", students.student_delete, name="student_delete"),
    path("uploads/start/<slug:purpose>", uploads.upload_start, name="upload_start"),
    path("uploads/<uuid:pk>/", uploads.upload_status, name="upload_status"),
    path("uploads/<uuid:pk>/piece", uploads.upload_piece, name="upload_piece"),
    path("uploads/<uuid:pk>/cancel", uploads.upload_cancel, name="upload_cancel"),
    path("methods/", catalogue.method_list, name="method_list"),
    path("methods/architectures", catalogue.architecture_options, name="architecture_options"),
]

machine_pages = [
    path("workers/", workers.worker_list, name="worker_list"),
    path("workers/<str:name>/drain", workers.worker_drain, name="worker_drain"),
    path("workers/<str:name>/remove", workers.worker_remove, name="worker_remove"),
    path("health/", health.health_page, name="health"),
    path("health.json", health.health_json, name="health_json"),
]

live_and_api = [
    path("runs/live", live.runs_live, name="runs_live"),
    path("runs/<int:pk>/live", live.run_live, name="run_live"),
    path("api/", include((api.patterns(), "api"))),
]

urlpatterns = [*live_and_api, *people, *runs_pages, *catalogue_pages, *machine_pages]
