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


class Term(Strict):
    """One method's place in the objective: `weight · loss_method(params)`."""

    method: str = Field(description="Key of the method, e.g. kd or fitnet.")
    weight: float = Field(1.0, ge=0, le=1e6)
    params: dict[str, Any] = Field(default_factory=dict, description="The method's own parameters.")


class Objective(Strict):
    """total = task_weight · task_loss + Σ weight_i · term_i"""

    task_weight: float = Field(1.0, ge=0, le=1e6, title="Weight of the task loss")
    label_smoothing: float = Field(0.0, ge=0, lt=1, title="Label smoothing")
    terms: list[Term] = Field(default_factory=list, max_length=16)


class Training(Strict):
    """The budget and the optimiser: equal for a student and its control."""

    epochs: int = Field(10, ge=1, le=10_000, description="Passes over the training split.")
    batch_size: int = Field(128, ge=1, le=65_536, title="Batch size")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", title="Optimiser")
    learning_rate: float = Field(0.05, gt=0, le=100, title="Learning rate", description="Peak value.")
    momentum: float = Field(0.9, ge=0, lt=1, description="For SGD (Nesterov).")
    weight_decay: float = Field(
        5e-4, ge=0, le=1, title="Weight decay", description="Not on norms and biases."
    )
    schedule: Literal["constant", "cosine", "step"] = Field(
        "cosine", description="cosine: to zero over the run. step: ÷10 at 50 % and 75 %."
    )
    warmup_epochs: float = Field(0.0, ge=0, le=1000, title="Warm-up epochs", description="Linear, from zero.")
    augment: bool = Field(True, title="Augmentation", description="The dataset's standard augmentation.")
    seed: int = Field(0, ge=0, le=2**31 - 1)


class ModelRef(Strict):
    """A network: an architecture by key, with given, pretrained or random weights."""

    architecture: str = Field(min_length=1, max_length=200)
    weights: str | None = Field(None, description="Path of a safetensors file; None: initialised.")
    pretrained: bool = Field(False, description="Start from the library's own pretrained weights.")


class RunSpec(Strict):
    """One training: a student under a teacher, or a network alone (no teacher, no terms)."""

    dataset: str = Field(description="Folder of a prepared dataset (see data/prepared.py).")
    student: ModelRef
    teacher: ModelRef | None = None
    training: Training = Field(default_factory=Training)
    objective: Objective = Field(default_factory=Objective)
    output: str = Field(description="Folder for checkpoints and the exported student.")
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
