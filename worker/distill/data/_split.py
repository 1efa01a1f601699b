"""Which samples to hold out where a dataset brings no validation split."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.distill.data.prepared import Labels


def stratified(labels: Labels, held: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (kept, held out), each ascending; `held` samples are held out, shared fairly over the classes.

    Every class keeps at least one sample, and a class of two or more gives at least one. Multi-label, labels
    (N, C): about as many, each label in its share (see `_by_label`). The legacy RandomState is used because
    its stream is frozen: the same split for ever.
    """
    random = np.random.RandomState(seed)
    if labels.ndim == 2:
        out = _by_label(labels, held / len(labels), random)
        return np.flatnonzero(~out), np.flatnonzero(out)
    _, members = np.unique(labels, return_inverse=True)
    counts = np.bincount(members)
    quotas = counts * held / len(labels)
    take = np.floor(quotas).astype(int)
    take[np.argsort(take - quotas, kind="stable")[: held - take.sum()]] += 1  # largest remainders
    take = np.minimum(np.maximum(take, 1), counts - 1)
    out = np.zeros(len(labels), bool)
    for label, number in enumerate(take):
        out[random.permutation(np.flatnonzero(members == label))[:number]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


def _by_label(labels: Labels, share: float, random: np.random.RandomState) -> NDArray[np.bool_]:
    """(N,) whether a sample is held out. Iterative stratification (Sechidis et al. 2011) into two parts.

    The label with the fewest undecided samples is settled first: as many of them are held out as its share
    still lacks, the others stay. Samples without any label are shared like a label of their own. A sample
    that would leave one of its labels without a kept one is never held out.
    """
    marks = np.column_stack([labels, ~labels.any(1)]).astype(bool)  # (N, C + 1)
    counts = marks.sum(0)
    quotas = np.minimum(np.maximum(np.round(counts * share), 1), counts - 1)
    given = np.zeros_like(counts)
    out, free = np.zeros(len(marks), bool), np.ones(len(marks), bool)
    left = counts.copy()  # of each label, the undecided samples
    while left.any():
        label = np.where(left > 0, left, len(marks) + 1).argmin()
        for sample in random.permutation(np.flatnonzero(free & marks[:, label])):
            if given[label] < quotas[label] and (given + marks[sample] < counts)[marks[sample]].all():
                out[sample] = True
                given += marks[sample]
            free[sample] = False
            left -= marks[sample]
    return out
