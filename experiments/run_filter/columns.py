"""What can be a column of the runs table: shown, sorted by, filtered by, grouped by. One name for all four.

A name is a headline (`acc`), a metric with its statistic (`val/top1.best`), or a parameter or result
of `RunValue` (`learning_rate`, `kd.temperature`, `ece`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from django.db.models import QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _l

from experiments import metric_store
from experiments.models import Run, RunValue, Series
from worker.distill.spec import Training

Label = str | Promise
STATISTICS = ("last", "best", "min", "max")
NUMERIC = {"share", "points", "ratio", "count", "bytes", "flops", "ms", "number", "seconds"}


@dataclass(frozen=True)
class Column:
    key: str
    label: Label
    kind: str  # how it reads: one of NUMERIC, or text, status, moment …
    field: str = ""  # of Run, or what sql.EXPRESSIONS computes
    value: str = ""  # key of RunValue
    series: str = ""
    statistic: str = ""
    first: str = ""  # "-" where people want the largest on top
    help: Label = ""
    group: str = "overview"  # overview, results, parameters, metrics: its place in the chooser

    @property
    def numeric(self) -> bool:
        return self.kind in NUMERIC

    @property
    def sortable(self) -> bool:
        return bool(self.field or self.value or self.series)


HEADLINES = (
    Column("status", _l("Status"), "status", "status"),
    Column("name", _l("Name"), "name", "name"),
    Column("student", _l("Teacher → student"), "pair", "architecture__key"),
    Column("teacher", _l("Teacher"), "text", "teacher__name"),
    Column("architecture", _l("Architecture"), "text", "architecture__key"),
    Column("dataset", _l("Dataset"), "text", "dataset__name"),
    Column("experiment", _l("Experiment"), "text", "experiment__name"),
    Column("purpose", _l("Purpose"), "purpose", "purpose"),
    Column("method", _l("Method"), "method", "method_keys"),
    Column("progress", _l("Epochs"), "progress", "shown_progress", first="-"),
    Column("duration", _l("Duration"), "seconds", "shown_duration", first="-"),
    Column("tags", _l("Tags"), "tags"),
    Column("owner", _l("Owner"), "text", "owner__username"),
    Column("created", _l("Created"), "moment", "created", first="-"),
    Column("started", _l("Started"), "moment", "started", first="-"),
    Column("finished", _l("Finished"), "moment", "finished", first="-"),
    Column("epoch", _l("Epoch reached"), "number", "epoch", first="-"),
    Column("settings", _l("Settings"), "settings", value="settings",
           help=_l("The same for runs that differ in nothing but the seed")),
    Column("id", _l("Number"), "number", "pk", first="-"),
)  # fmt: skip
_R = "results"
RESULTS = (
    Column("acc", _l("Accuracy"), "acc", "accuracy", first="-", group=_R),
    Column("teacher_acc", _l("Teacher's"), "share", value="teacher_acc", first="-", group=_R),
    Column("delta", _l("Δ teacher"), "points", value="delta", first="-", group=_R,
           help=_l("Student − teacher, in percentage points")),
    Column("gain", _l("Gain"), "gain", value="gain", first="-", group=_R,
           help=_l("Student − control, in percentage points")),
    Column("gap_closed", _l("Gap closed"), "share", value="gap_closed", first="-", group=_R,
           help=_l("(student − control) ÷ (teacher − control)")),
    Column("ratio", _l("Compr."), "ratio", value="ratio", first="-", group=_R,
           help=_l("Compression: parameters of the teacher ÷ of the student")),
    Column("ratio_bytes", _l("Smaller file"), "ratio", value="ratio_bytes", first="-", group=_R),
    Column("ratio_flops", _l("Less work"), "ratio", value="ratio_flops", first="-", group=_R),
    Column("ratio_memory", _l("Less memory"), "ratio", value="ratio_memory", first="-", group=_R),
    Column("speed_up", _l("Speed-up"), "ratio", value="speed_up", first="-", group=_R),
    Column("params", _l("Parameters"), "count", "parameters", group=_R),
    Column("bytes", _l("Size"), "bytes", "bytes", group=_R),
    Column("flops", _l("FLOPs"), "flops", "flops", group=_R),
    Column("latency", _l("Latency"), "ms", "latency_ms", group=_R),
    Column("throughput", _l("Throughput"), "count", value="throughput", first="-", group=_R),
    Column("bytes_fp16", _l("Size as fp16"), "bytes", value="bytes_fp16", group=_R),
    Column("bytes_int8", _l("Size as int8"), "bytes", value="bytes_int8", group=_R),
    Column("peak_memory", _l("Peak memory"), "bytes", value="peak_memory", group=_R),
    Column("latency_p95_ms", _l("Latency, 95 %"), "ms", value="latency_p95_ms", group=_R),
    Column("ece", _l("Calibration error"), "share", value="ece", group=_R),
    Column("agreement", _l("Agreement"), "share", value="agreement", first="-", group=_R),
    Column("kl", _l("KL to teacher"), "number", value="kl", group=_R),
    Column("loss", _l("Test loss"), "number", value="loss", group=_R),
    Column("top5", _l("Top-5"), "share", value="top5", first="-", group=_R),
    Column("f1_micro", _l("F1, micro"), "share", value="f1_micro", first="-", group=_R),
    Column("f1_macro", _l("F1, macro"), "share", value="f1_macro", first="-", group=_R),
    Column("exact_match", _l("Exact match"), "share", value="exact_match", first="-", group=_R),
    Column("device", _l("Device"), "text", value="device", group=_R),
)  # fmt: skip
NUMERIC |= {"acc", "gain"}  # cells of their own, numbers all the same
ALIASES = {
    "accuracy": "acc", "top1": "acc", "top-1": "acc", "map": "acc", "lr": "learning_rate",
    "wd": "weight_decay", "bs": "batch_size", "optimiser": "optimizer", "parameters": "params",
    "size": "bytes", "time": "duration", "compression": "ratio", "user": "owner", "tag": "tags",
    "epochs_done": "epoch", "temp": "temperature", "methods": "method", "speedup": "speed_up",
}  # fmt: skip
BUILT_IN = {column.key: column for column in (*HEADLINES, *RESULTS)}
DEFAULT = (
    "status", "name", "student", "method", "acc", "delta", "gain", "ratio", "progress", "duration",
    "created", "owner", "tags",
)  # fmt: skip


@cache
def parameters() -> dict[str, Column]:
    """Those every run has, in the order of the form; a method's own are known from the runs alone."""
    found = {}
    for key, field in Training.model_fields.items():
        label = _l(field.title or key.replace("_", " ").capitalize())
        kind = "number" if field.annotation in (int, float, float | None) else "text"
        said = _l(field.description) if field.description else ""
        found[key] = Column(key, label, kind, value=key, help=said, group="parameters")
    for key in ("task_weight", "label_smoothing", "frozen_stages"):
        found[key] = of_value(key, "number")
    for key in ("class_weights", "pretrained", "mixing"):
        found[key] = of_value(key, "text")
    return found


def of_value(key: str, kind: str = "either") -> Column:
    """A parameter or result that no list names; it may be a number in one run and a text in another."""
    return Column(key, key, kind, value=key, group="parameters")


def metric(name: str, statistic: str) -> Column:
    way = metric_store.better(name)
    kind = "share" if way == "max" else "number"
    label = name if statistic == "last" else f"{name} {statistic}"
    first = "-" if way != "min" else ""
    return Column(
        f"{name}.{statistic}", label, kind, series=name, statistic=statistic, first=first, group="metrics"
    )


class Names:
    """Resolves what people type, within the runs they may see. Parameters of methods and metrics are known
    from those runs, and asked for only when a name is none of the others."""

    def __init__(self, runs: QuerySet[Run]) -> None:
        self.runs = runs
        self.found: dict[str, Column | None] = {}

    def column(self, name: str) -> Column | None:
        """None: there is no such name."""
        if name not in self.found:
            self.found[name] = self._column(name)
        return self.found[name]

    def _column(self, name: str) -> Column | None:
        small = ALIASES.get(name.lower(), name.lower())
        if small in BUILT_IN:
            return BUILT_IN[small]
        if small in parameters():
            return parameters()[small]
        return self._metric(name) or self._value(name.removeprefix("param."))

    def _metric(self, name: str) -> Column | None:
        series, _, statistic = name.rpartition(".")
        if statistic not in STATISTICS:
            series, statistic = name, "best" if metric_store.better(name) else "last"
        if "/" not in name and series == name:
            return None  # `throughput` is a result, `throughput.last` a metric
        there = Series.objects.filter(name=series, run__in=self.runs.order_by().values("pk"))
        return metric(series, statistic) if there.exists() else None

    def _value(self, name: str) -> Column | None:
        key = ALIASES.get(name.lower(), name)
        for tried in (key, key.lower()):
            there = RunValue.objects.filter(key=tried, run__in=self.runs.order_by().values("pk"))
            if there.exists():
                return of_value(tried)
        return None

    def known(self) -> list[str]:
        return [*BUILT_IN, *parameters(), *ALIASES]

    def like(self, name: str, more: Iterable[str] = ()) -> str:
        """The nearest name there is; empty where none is near."""
        near = get_close_matches(name.lower(), [*more, *self.known()], n=1, cutoff=0.6)
        return near[0] if near else ""
