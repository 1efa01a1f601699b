"""What can be asked of the engine. Free of torch: the web process validates with these very models.

A request is one JSON object, `RunSpec`. Everything a run's result depends on stands in it; nothing is
read from the environment. Unknown keys are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class SpecError(ValueError):
    """Something that was asked for cannot be done. Says which field, which value, and what to do instead."""

    def __init__(self, field: str, value: object, problem: str, fix: str = "") -> None:
        self.field = field
        self.value = value
        self.problem = problem
        self.fix = fix
        super().__init__(f"{field} = {value!r}: {problem}" + (f" {fix}" if fix else ""))


class Strict(BaseModel):
    """A model that refuses unknown keys and non-finite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Schedule(Strict):
    """How a weight moves over the main part of a run: a factor on the weight, a function of the epoch."""

    kind: Literal["constant", "linear", "cosine"] = Field(
        "constant", title="Course", description="linear, cosine: to the final factor over the run."
    )
    final: float = Field(
        0.0, ge=0, le=1e6, title="Final factor", description="Where linear and cosine end; 0 fades out."
    )
    warmup_epochs: float = Field(
        0.0, ge=0, le=10_000, title="Warm-up epochs", description="Linear, from zero."
    )
    stop_epoch: float | None = Field(
        None, gt=0, le=10_000, title="Stop after epoch", description="The weight is 0 from there on."
    )
    balance: bool = Field(
        False,
        title="Balance with the task",
        description="Rescaled during training so that the term keeps weight × the size of the task loss.",
    )


class Term(Strict):
    """One method's place in the objective: `weight(t) · loss_method(params)`."""

    method: str = Field(description="Key of the method, e.g. kd or fitnet.")
    weight: float = Field(1.0, ge=0, le=1e6)
    schedule: Schedule = Field(default_factory=Schedule)
    params: dict[str, Any] = Field(default_factory=dict, description="The method's own parameters.")


class Objective(Strict):
    """total = task_weight · task_loss + Σ weight_i(t) · term_i"""

    task_weight: float = Field(1.0, ge=0, le=1e6, title="Weight of the task loss")
    label_smoothing: float = Field(0.0, ge=0, lt=1, title="Label smoothing")
    class_weights: Literal["none", "balanced"] = Field(
        "none", title="Class weights", description="balanced: rare classes count more in the task loss."
    )
    terms: list[Term] = Field(default_factory=list, max_length=16)


Optimizer = Literal[
    "sgd", "adam", "adamw",  # torch's; the others are timm's, by its names
    "adafactor", "adan", "lamb", "lars", "lion", "madgradw", "nadamw", "radam", "rmsproptf",
]  # fmt: skip


class Training(Strict):
    """The budget and the optimiser: equal for a student and its control."""

    epochs: int = Field(10, ge=1, le=10_000, description="Passes over the training split.")
    batch_size: int = Field(128, ge=1, le=65_536, title="Batch size")
    optimizer: Optimizer = Field("sgd", title="Optimiser", description="The rarer ones are timm's.")
    learning_rate: float = Field(0.05, gt=0, le=100, title="Learning rate", description="Peak value.")
    momentum: float = Field(0.9, ge=0, lt=1, description="For SGD (Nesterov).")
    weight_decay: float = Field(
        5e-4, ge=0, le=1, title="Weight decay", description="Not on norms and biases."
    )
    schedule: Literal["constant", "cosine", "linear", "step"] = Field(
        "cosine", description="cosine, linear: to zero over the run. step: × factor at the milestones."
    )
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.5, 0.75],
        max_length=20,
        description="For step: where the rate drops, as shares of the run.",
    )
    step_factor: float = Field(0.1, gt=0, le=1, title="Step factor", description="For step.")
    warmup_epochs: float = Field(0.0, ge=0, le=1000, title="Warm-up epochs", description="Linear, from zero.")
    clip_norm: float | None = Field(
        None, gt=0, le=1e6, title="Clip gradients", description="Largest norm of all gradients together."
    )
    accumulate: int = Field(
        1, ge=1, le=1024, title="Accumulation", description="Batches whose gradients make one step."
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="EMA decay",
        description="Moving average of the weights, measured and exported instead; 0: none.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Autocast of the forward passes; losses stay in fp32."
    )
    early_stop: int = Field(
        0, ge=0, le=10_000, title="Early stop", description="Epochs without a better validation; 0: never."
    )
    early_stop_metric: Literal["score", "loss"] = Field(
        "score",
        title="Early stop on",
        description="score: top-1, or mAP for multi-label; loss: validation loss.",
    )
    augment: bool = Field(True, title="Augmentation", description="The dataset's standard augmentation.")
    views: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Augmented views a sample, used in turn and shared by all runs, so that a teacher's "
        "outputs are computed once; 0: a fresh view each epoch.",
    )
    mixup: float = Field(0.0, ge=0, le=10, description="α of its Beta distribution; 0: off.")
    cutmix: float = Field(0.0, ge=0, le=10, description="α of its Beta distribution; 0: off.")
    seed: int = Field(0, ge=0, le=2**31 - 1)


class ModelRef(Strict):
    """A network: an architecture by key, with given, pretrained or random weights."""

    architecture: str = Field(min_length=1, max_length=200)
    weights: str | None = Field(None, description="Path of a safetensors file; None: initialised.")
    pretrained: bool = Field(False, description="Start from the library's own pretrained weights.")
    frozen_stages: int = Field(
        0, ge=0, le=100, description="So many stages, from the input on, keep their weights."
    )
    classes: int | None = Field(None, ge=1, description="Classes of its own label set, if not the dataset's.")


class Preset(Strict):
    """A published recipe: what one click fills in. `training` holds the fields it sets."""

    title: str
    source: str = Field(description="Where it stands: paper or repository, table or file.")
    teacher: str = Field("", description="Architecture key, where the recipe is for one pair.")
    student: str = ""
    objective: Objective
    training: dict[str, Any] = Field(default_factory=dict)


class TeacherCache(Strict):
    """Where teachers' outputs are kept between runs, and how much of the disk they may take."""

    folder: str
    budget: int = Field(4 * 2**30, ge=0, description="Bytes; what was used longest ago is dropped first.")


class Mixing(Strict):
    """Several teachers as one: p = Σ_k w_k p_k."""

    kind: Literal["mean", "weighted", "entropy"] = Field(
        "mean", description="entropy: the surer a teacher is of a sample, the more it counts."
    )
    weights: list[Annotated[float, Field(ge=0, le=1e6)]] = Field(
        default_factory=list, max_length=17, description="For weighted: one a teacher, the first's first."
    )


class RunSpec(Strict):
    """One training: a student under a teacher, or a network alone (no teacher, no terms)."""

    dataset: str = Field(description="Folder of a prepared dataset (see data/prepared.py).")
    student: ModelRef
    teacher: ModelRef | None = None
    more_teachers: list[ModelRef] = Field(default_factory=list, max_length=16)
    mixing: Mixing = Field(default_factory=Mixing)
    training: Training = Field(default_factory=Training)
    objective: Objective = Field(default_factory=Objective)
    output: str = Field(description="Folder for checkpoints and the exported student.")
    cache: TeacherCache | None = None
    processes: int = Field(
        1, ge=1, le=64, description="Processes that share each batch (gloo; nccl on CUDA)."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class PrepareSpec(Strict):
    """Turn a source of data (download, folder, archive, bundled set) into a prepared dataset."""

    kind: str
    options: dict[str, Any] = Field(default_factory=dict)
    source: str | None = Field(None, description="Uploaded archive, or a folder on this machine.")
    output: str


class ImportSpec(Strict):
    """Read a checkpoint somebody uploaded, as `architecture`, and write it as safetensors."""

    checkpoint: str
    filename: str = Field(description="The name the file had; shown, never trusted.")
    architecture: str
    dataset: str = Field(description="Prepared dataset it classifies; it is evaluated on it.")
    output: str = Field(description="Path of the safetensors file to write.")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class ProfileSpec(Strict):
    """Describe an architecture at an input: parameters, FLOPs, layers with shapes."""

    architecture: str
    num_classes: Annotated[int, Field(ge=1, le=100_000)]
    in_channels: Annotated[int, Field(ge=1, le=64)]
    image_size: Annotated[int, Field(ge=1, le=4096)]


COMMANDS: dict[str, type[Strict]] = {
    "train": RunSpec,
    "prepare": PrepareSpec,
    "import-checkpoint": ImportSpec,
    "profile": ProfileSpec,
}


def hinton(alpha: float = 0.9, temperature: float = 4.0) -> Objective:
    """(1−α)·CE + α·T²·KL(teacher_T ‖ student_T). Hinton et al. 2015, arXiv 1503.02531."""
    return Objective(
        task_weight=1 - alpha,
        terms=[Term(method="kd", weight=alpha, params={"temperature": temperature})],
    )


def two_part(
    alpha: float = 0.5,
    temperature: float = 4.0,
    student_layer: str = "",
    teacher_layer: str = "",
) -> Objective:
    """L = α·L_feature + (1−α)·L_output, hidden layers matched through a learned map; no task loss.

    Empty layer paths let the engine pair the layers by stage.
    """
    layers = {"student_layer": student_layer, "teacher_layer": teacher_layer}
    return Objective(
        task_weight=0.0,
        terms=[
            Term(method="fitnet", weight=alpha, params=layers),
            Term(method="kd", weight=1 - alpha, params={"temperature": temperature}),
        ],
    )
