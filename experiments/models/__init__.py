"""What the team stores, by noun."""

from .attempts import Artifact, Attempt, RunEvent
from .catalogue import Architecture, ArchitectureProfile, Dataset, DatasetKind, Method, Student, Teacher
from .metrics import LogLine, MetricChunk, Series
from .organising import RunValue, SavedView, Star, Tag
from .runs import Experiment, Run, RunTeacher
from .team import Membership, Project, Role
from .uploads import Upload
from .workers import Pulse, Worker

__all__ = [
    "Architecture",
    "ArchitectureProfile",
    "Artifact",
    "Attempt",
    "Dataset",
    "DatasetKind",
    "Experiment",
    "LogLine",
    "Membership",
    "Method",
    "MetricChunk",
    "Project",
    "Pulse",
    "Role",
    "Run",
    "RunEvent",
    "RunTeacher",
    "RunValue",
    "SavedView",
    "Series",
    "Star",
    "Student",
    "Tag",
    "Teacher",
    "Upload",
    "Worker",
]
