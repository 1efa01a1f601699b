"""JSON Schema → Django form fields. Parameters of methods and options of datasets are declared once, by the
worker; their forms and checks are rendered from what it published.

Flat objects of numbers, switches, choices, texts and lists of texts or numbers: what a parameter can be, and
no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from django import forms
from django.utils.translation import gettext as _
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaViolation


def build_fields(schema: dict[str, Any], prefix: str) -> dict[str, forms.Field]:
    """A field for each property, named `<prefix>-<property>`. An empty field means the default."""
    required = set(schema.get("required", ()))
    fields = {}
    for name, rule in schema.get("properties", {}).items():
        field = _field(name, _resolved(schema, rule), required=name in required)
        field.has_default = field.initial not in (None, "")  # type: ignore[attr-defined]
        fields[f"{prefix}-{name}"] = field
    return fields


def check_values(
    schema: dict[str, Any], values: dict[str, Any], prefix: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """(the object the schema describes, error by field name). What is stored is whole: defaults filled in."""
    given: dict[str, Any] = {}
    for name, rule in schema.get("properties", {}).items():
        value = values.get(f"{prefix}-{name}")
        if value not in (None, "", []):
            given[name] = value
        elif "default" in rule:
            given[name] = rule["default"]
    errors: dict[str, str] = {}
    for violation in Draft202012Validator(schema).iter_errors(given):
        problem, fix, name = explain(violation)
        errors.setdefault(f"{prefix}-{name}", f"{problem} {fix}".strip())
    return given, errors


def with_defaults(schema: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The object with every default written out: a stored run must not change with a later default."""
    defaults = {
        name: rule["default"] for name, rule in schema.get("properties", {}).items() if "default" in rule
    }
    return defaults | given


def texts(schema: dict[str, Any]) -> Iterator[str]:
    """What a form or a help page shows of a schema, to be translated: titles and descriptions."""
    for name, rule in schema.get("properties", {}).items():
        resolved = _resolved(schema, rule)
        yield title(name, resolved)
        if said := resolved.get("description"):
            yield said


def title(name: str, rule: dict[str, Any]) -> str:
    """A property as its schema names it, in English."""
    return str(rule.get("title") or name.replace("_", " ").capitalize())


def _resolved(schema: dict[str, Any], rule: dict[str, Any]) -> dict[str, Any]:
    """The rule without references, and without the null of an optional one."""
    if "$ref" in rule:
        target = schema.get("$defs", {}).get(rule["$ref"].rpartition("/")[2], {})
        return _resolved(schema, target | {key: value for key, value in rule.items() if key != "$ref"})
    for key in ("anyOf", "allOf", "oneOf"):
        if options := [option for option in rule.get(key, ()) if option.get("type") != "null"]:
            rest = {name: value for name, value in rule.items() if name != key}
            return _resolved(schema, options[0] | rest)
    return rule


def _field(name: str, rule: dict[str, Any], *, required: bool) -> forms.Field:
    default = rule.get("default")
    common: dict[str, Any] = {
        "label": _(title(name, rule)),
        "help_text": _(rule.get("description", "")),
        "required": required and default is None,
        "initial": default,
    }
    choices = rule.get("enum") or ([rule["const"]] if "const" in rule else None)
    if choices:
        # TypedChoiceField hands back the schema's own value, a number where it is a number
        by_text = {str(choice): choice for choice in choices}
        pairs = [(text, text) for text in by_text]
        if default is None and not required:
            pairs.insert(0, ("", "-"))
        return forms.TypedChoiceField(choices=pairs, coerce=by_text.__getitem__, empty_value=None, **common)
    match rule.get("type"):
        case "boolean":
            return forms.BooleanField(**common | {"required": False})
        case "integer":
            return forms.IntegerField(widget=_number(rule, "1"), **common, **_bounds(rule, whole=True))
        case "number":
            return forms.FloatField(widget=_number(rule, "any"), **common, **_bounds(rule, whole=False))
        case "array":
            return _list(rule, common)
    field = forms.CharField(max_length=rule.get("maxLength", 1000), **common)
    if side := rule.get("layer_of"):
        field.widget.attrs |= {"list": f"{side}-layers", "data-layer-of": side, "autocomplete": "off"}
        field.widget.attrs |= {"spellcheck": "false", "placeholder": _("paired by stage")}
    return field


def _list(rule: dict[str, Any], common: dict[str, Any]) -> forms.Field:
    most, item = rule.get("maxItems"), rule.get("items", {})
    if item.get("type") in ("number", "integer"):
        return NumberList(most=most, item=_field("", item, required=True), **common)
    field = TextList(most=most, **common)
    if side := rule.get("layer_of"):
        field.widget.attrs |= {"data-layer-of": side, "autocomplete": "off", "spellcheck": "false"}
        field.widget.attrs["placeholder"] = _("one for each stage")
    return field


def _bounds(rule: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """Inclusive bounds of the field, and what it says. A float's exclusive bound is its next neighbour."""
    low, high = rule.get("minimum"), rule.get("maximum")
    say = {"min_value": at_least(low), "max_value": at_most(high)}
    if low is None and (edge := rule.get("exclusiveMinimum")) is not None:
        low = math.floor(edge) + 1 if whole else math.nextafter(edge, math.inf)
        say["min_value"] = above(edge)
    if high is None and (edge := rule.get("exclusiveMaximum")) is not None:
        high = math.ceil(edge) - 1 if whole else math.nextafter(edge, -math.inf)
        say["max_value"] = below(edge)
    say["invalid"] = _("Use a whole number.") if whole else _("Use a number.")
    return {"min_value": low, "max_value": high, "error_messages": say}


def at_least(bound: object) -> str:
    return _("Use %(bound)s or more.") % {"bound": bound}


def at_most(bound: object) -> str:
    return _("Use %(bound)s or less.") % {"bound": bound}


def above(bound: object) -> str:
    return _("Use a value above %(bound)s.") % {"bound": bound}


def below(bound: object) -> str:
    return _("Use a value below %(bound)s.") % {"bound": bound}


def _number(rule: dict[str, Any], step: str) -> forms.NumberInput:
    return _Number(attrs={"inputmode": "decimal" if step == "any" else "numeric", "step": step})


class _Number(forms.NumberInput):
    """Exclusive bounds are the server's to check: the browser would name the neighbour, 5e-324."""

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        context = super().get_context(name, value, attrs)
        shown = context["widget"]["attrs"]
        for bound in ("min", "max"):
            if bound in shown and shown[bound] != round(shown[bound], 9):
                del shown[bound]
        return context


class TextList(forms.CharField):
    """Comma-separated texts."""

    def __init__(self, *, most: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.most = most

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if self.most is not None and len(parts) > self.most:
            raise forms.ValidationError(_("Give at most %(n)s.") % {"n": self.most})
        return parts


class NumberList(TextList):
    """Comma-separated numbers, each within the bounds of the schema's items."""

    def __init__(self, *, item: forms.Field, **options: Any) -> None:
        super().__init__(**options)
        self.item = item
        self.widget.attrs |= {"inputmode": "decimal", "autocomplete": "off"}

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(f"{one:g}" for one in value) if isinstance(value, (list, tuple)) else value

    def clean(self, value: Any) -> Any:
        return [self._number(part) for part in super().clean(value)]

    def _number(self, part: str) -> Any:
        try:
            return self.item.clean(part)
        except forms.ValidationError as error:
            raise forms.ValidationError(f"{part}: {' '.join(error.messages)}") from error


def explain(violation: SchemaViolation) -> tuple[str, str, str]:
    """(problem, fix, property) of a breach, in the words of the form."""
    name = ".".join(str(part) for part in violation.absolute_path)
    rule: Any = violation.validator_value
    instance: Any = violation.instance
    properties = violation.schema.get("properties", {}) if isinstance(violation.schema, dict) else {}
    match violation.validator:
        case "additionalProperties":
            extra = min(set(instance) - set(properties), default="")
            allowed = ", ".join(properties) or _("none")
            fix = _("Parameters are: %(names)s.") % {"names": allowed}
            return _("there is no such parameter."), fix, f"{name}.{extra}".strip(".")
        case "required":
            missing = next((key for key in rule if key not in instance), "")
            return _("it is missing."), _("Give it a value."), f"{name}.{missing}".strip(".")
        case "minimum":
            return _("it must be at least %(bound)s.") % {"bound": rule}, at_least(rule), name
        case "exclusiveMinimum":
            return _("it must be above %(bound)s.") % {"bound": rule}, above(rule), name
        case "maximum":
            return _("it must be at most %(bound)s.") % {"bound": rule}, at_most(rule), name
        case "exclusiveMaximum":
            return _("it must be below %(bound)s.") % {"bound": rule}, below(rule), name
        case "enum":
            fix = _("Choose one of %(names)s.") % {"names": ", ".join(map(str, rule))}
            return _("there is no such choice."), fix, name
        case "type":
            return _("it is of the wrong type."), _("Give a value of type %(type)s.") % {"type": rule}, name
    return _("it is refused: %(reason)s.") % {"reason": violation.message}, "", name
