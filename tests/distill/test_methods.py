"""What holds for every method that lies in the folder."""

import jsonschema
import pytest

from worker.distill import methods, models
from worker.distill.spec import SpecError, Training

# Keys are stored with runs: once released, a key stays. Add new ones here.
RELEASED = {
    *("ab", "at", "cc", "crd", "ctkd", "dist", "dkd", "fitnet", "fsp", "ft", "kd", "kdsvd", "logit_std"),
    *("mlld", "nkd", "nst", "ofd", "pkt", "reviewkd", "rkd", "simkd", "sp", "vid", "wsld"),
}
KEYS = sorted(methods.discover().methods)


def test_every_key_ever_released_is_there_and_no_file_is_broken():
    assert set(KEYS) >= RELEASED
    assert methods.discover().broken == {}


@pytest.mark.parametrize("key", KEYS)
def test_a_method_says_what_a_page_needs(key):
    kind = methods.get(key)
    assert all([kind.title, kind.paper, kind.formula, kind.summary, kind.needs, kind.task_forms])
    assert kind.paper_url.startswith("https://")
    schema = kind.Params.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(
        p.get("title") and p.get("description") and "default" in p for p in schema["properties"].values()
    )
    kind(kind.Params())  # every parameter has a default


@pytest.mark.parametrize("key", KEYS)
def test_a_method_brings_its_published_recipe(key):
    """One for any pair at least, whose every field is one that can be asked for."""
    kind = methods.get(key)
    assert any(not (preset.teacher or preset.student) for preset in kind.presets)
    for preset in kind.presets:
        assert preset.source
        assert key in [term.method for term in preset.objective.terms]
        for term in preset.objective.terms:
            methods.get(term.method).Params.model_validate(term.params)
        assert Training.model_validate(preset.training).epochs >= 60
        for architecture in filter(None, (preset.teacher, preset.student)):
            assert models.find(architecture), architecture


def test_a_file_that_cannot_be_imported_is_reported_and_harms_no_other(tmp_path, monkeypatch):
    package = tmp_path / "somemethods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text("class Method: ...")
    (package / "bad.py").write_text("import no_such_module")
    (package / "_shared.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    found = methods.find(package, "somemethods")
    assert list(found.methods) == ["good"]
    assert found.broken == {"bad": "ModuleNotFoundError: No module named 'no_such_module'"}


def test_layer_parameters_are_marked_for_the_form():
    properties = methods.get("fitnet").Params.model_json_schema()["properties"]
    assert properties["student_layer"]["layer_of"] == "student"
    assert properties["teacher_layer"]["layer_of"] == "teacher"


def test_an_unknown_method_is_refused_with_the_list():
    with pytest.raises(SpecError, match="fitnet, fsp, ft, kd"):
        methods.get("nonsense")
