"""Published recipes: which are offered for a pair of networks, and what one click fills in."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from experiments import recipes
from experiments.models import Membership, Method, Role, Run, Worker
from worker.distill.spec import Objective, Preset, Schedule, Term

from . import make
from .test_run_new import sent

pytestmark = pytest.mark.django_db
AT_LAYERS = {"student_layers": ["layer1", "layer2"], "teacher_layers": ["layer1", "layer2"]}


def a_preset(title: str, **values: Any) -> dict[str, Any]:
    term = Term(method="at", weight=1000, params=AT_LAYERS, schedule=Schedule(warmup_epochs=5))
    usual = {"source": "Table 2 of the paper", "objective": Objective(task_weight=1, terms=[term])}
    return Preset(title=title, **(usual | values)).model_dump(mode="json")


@pytest.fixture
def mia() -> Client:
    user = User.objects.create_user("mia")
    Membership.objects.create(project=make.a_project(), user=user, role=Role.MEMBER)
    Worker.objects.create(name="w1", host="here", queue="cpu")
    make.methods()
    training = {"epochs": 240, "schedule": "step", "milestones": [0.625, 0.75], "augment": False}
    presets = [
        a_preset("any pair", training=training),
        a_preset("our pair", teacher="resnet56", student="resnet8"),
        a_preset("another pair", teacher="vgg13", student="vgg8"),
        a_preset("small students", student="resnet8"),
        {"title": "of a later version", "what": "is this"},
    ]
    Method.objects.create(key="at", title="Attention", schema=make.AT, needs=["features"], presets=presets)
    make.a_teacher("big", architecture=make.an_architecture("resnet56"))
    make.an_architecture("resnet8")
    client = Client()
    client.force_login(user)
    return client


def test_those_for_the_pair_come_first_and_are_marked(mia: Client) -> None:
    found = recipes.offered(Method.objects.all(), "resnet56", "resnet8")
    assert [(one.preset.title, one.fits) for one in found] == [
        ("our pair", True),
        ("small students", True),
        ("any pair", False),
    ]
    assert [one.preset.title for one in recipes.offered(Method.objects.all(), "vgg13", "resnet20")] == [
        "any pair"
    ]
    text = mia.get(reverse("run_new")).text
    assert text.index("our pair") < text.index("any pair")
    assert "2 for resnet56 → resnet8, 3 in all" in text
    assert "another pair" not in text


def test_one_click_fills_objective_and_training_and_says_the_source(mia: Client) -> None:
    text = mia.post(reverse("run_recipe"), sent(apply_recipe="at.0", training__seed="17")).text
    assert "L = CE + 1000·AT↗5 ep</p>" in text
    for name, value in (
        ("t0-weight", "1000.0"),
        ("t0-p-student_layers", "layer1, layer2"),
        ("t0-s-warmup_epochs", "5.0"),
        ("training-epochs", "240"),
        ("training-milestones", "0.625, 0.75"),
        ("training-seed", "17"),  # what the recipe does not set stays as it was typed
    ):
        assert f'name="{name}" value="{value}"' in text
    assert "Source: Table 2 of the paper" in text
    assert 'id="training" hx-swap-oob="true"' in text
    assert not Run.objects.exists()


def test_what_was_filled_in_can_be_started_as_it_stands(mia: Client) -> None:
    recipe = recipes.find(Method.objects.all(), "at.0")
    assert recipe is not None
    typed = recipes.typed(recipe, {})
    plain = {key: value for key, value in sent().items() if not key.startswith("t0-")}
    mia.post(reverse("run_new"), plain | typed)
    run = Run.objects.get(purpose="distil")
    assert run.objective["terms"][0] == {
        "method": "at",
        "weight": 1000,
        "schedule": Schedule(warmup_epochs=5).model_dump(),
        "params": AT_LAYERS,
    }
    assert (run.training["epochs"], run.training["milestones"]) == (240, [0.625, 0.75])
    assert run.training["augment"] is False


def test_a_recipe_is_applied_without_javascript_too(mia: Client) -> None:
    text = mia.post(reverse("run_new"), sent(apply_recipe="at.0")).text
    assert 'name="training-epochs" value="240"' in text
    assert 'name="recipe" value="at.0"' in text
    assert text.count('name="term"') == 1
    assert mia.post(reverse("run_recipe"), sent(apply_recipe="at.9")).status_code == 404
    assert not Run.objects.exists()


def test_a_changed_pair_brings_its_recipes_and_an_unchanged_one_leaves_the_list_alone(mia: Client) -> None:
    same = mia.post(reverse("run_check"), sent(recipes_for="resnet56 → resnet8")).text
    assert 'id="recipes"' not in same
    other = mia.post(reverse("run_check"), sent(recipes_for="vgg13 → resnet8")).text
    assert 'id="recipes" hx-swap-oob="true"' in other


def test_the_page_of_methods_lists_recipes_with_their_sources_and_leads_to_the_form(mia: Client) -> None:
    text = mia.get(reverse("method_list")).text
    for words in ("another pair", "vgg13 → vgg8", "Table 2 of the paper", "L = CE + 1000·AT↗5 ep"):
        assert words in text
    assert "of a later version" not in text
    begun = mia.get(reverse("run_new"), {"recipe": "at.0"}).text
    assert 'name="training-epochs" value="240"' in begun
    assert "Source: Table 2 of the paper" in begun


def test_every_published_recipe_of_the_engine_can_be_offered() -> None:
    from worker.distill import methods, offer

    for key, kind in methods.discover().methods.items():
        row = Method(key=key, presets=offer.method(key, kind)["presets"])
        assert len(recipes.of(row)) == len(kind.presets), key
