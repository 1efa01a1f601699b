"""One evaluation code: every figure against scikit-learn or a value worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from worker.distill import evaluate as evaluation
from worker.distill.data.augment import Augment
from worker.distill.data.prepared import Meta, Split
from worker.distill.errors import StopRequested
from worker.distill.evaluate import Bin, Scores, average_precisions, calibration, evaluate, judge, predict

CPU = torch.device("cpu")


def drawn(rows: int, columns: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale


def some_classes(rows: int, classes: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, rows)


def some_labels(rows: int, labels: int, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).random((rows, labels)) < 0.3).astype(np.uint8)


# ---- single-label --------------------------------------------------------------------------------


def test_single_label_figures_are_scikit_learns() -> None:
    logits, truth = drawn(500, 10), some_classes(500, 10)
    scores = judge(logits, truth, num_classes=10)
    p, guess = logits.double().softmax(1).numpy(), logits.argmax(1).numpy()
    assert scores.score == scores.top1 == pytest.approx(metrics.accuracy_score(truth, guess), rel=1e-12)
    assert scores.top5 == pytest.approx(metrics.top_k_accuracy_score(truth, p, k=5), rel=1e-12)
    assert scores.loss == pytest.approx(metrics.log_loss(truth, p, labels=range(10)), rel=1e-9)
    assert scores.confusion == metrics.confusion_matrix(truth, guess, labels=range(10)).tolist()
    assert scores.per_class == pytest.approx(metrics.recall_score(truth, guess, average=None), rel=1e-12)
    assert scores.map is None
    assert scores.agreement is None


def test_a_class_without_samples_has_no_accuracy_and_five_classes_no_top5() -> None:
    scores = judge(drawn(6, 5), np.array([0, 1, 1, 2, 3, 3]), num_classes=5)
    assert scores.per_class is not None
    assert [value is None for value in scores.per_class] == [False, False, False, False, True]
    assert scores.top5 is None


def test_many_classes_give_the_pairs_confused_most_often() -> None:
    classes = evaluation.MATRIX_UP_TO + 1
    truth = np.array([7, 7, 7, 7, 3, 3, 3, 9])
    said = torch.tensor([8, 8, 8, 7, 4, 4, 3, 9])
    scores = judge(nn.functional.one_hot(said, classes).float(), truth, num_classes=classes)
    assert scores.confusion is None
    assert scores.confused == [[7, 8, 3], [3, 4, 2]]


def test_rows_are_judged_in_parts_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, teacher, truth = drawn(100, 7), drawn(100, 7, seed=5), some_classes(100, 7)
    whole = judge(logits, truth, num_classes=7, teacher_logits=teacher)
    monkeypatch.setattr(evaluation, "ROWS", 9)
    parts = judge(logits, truth, num_classes=7, teacher_logits=teacher)
    assert (parts.loss, parts.kl, parts.ece) == pytest.approx((whole.loss, whole.kl, whole.ece), rel=1e-12)
    assert parts.confusion == whole.confusion


# ---- calibration ---------------------------------------------------------------------------------


def test_the_calibration_error_worked_out_by_hand() -> None:
    """Three bins are hit: 0.5 (two of four right), 0.95 (both right) and 1/15, which closes the first bin."""
    sure = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.95, 0.95, 1 / 15], dtype=torch.float64)
    right = torch.tensor([1, 1, 0, 0, 1, 1, 0], dtype=torch.bool)
    ece, bins = calibration(sure, right)
    assert ece == pytest.approx((4 * 0 + 2 * 0.05 + 1 / 15) / 7)
    assert [place for place, found in enumerate(bins) if found] == [0, 7, 14]
    assert bins[7] == Bin(4, 0.5, 0.5)
    assert bins[14] == Bin(2, pytest.approx(0.95), 1.0)


def test_probabilities_that_keep_their_word_are_calibrated_and_boasts_are_not() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = drawn(40_000, 4, scale=1.5)
    truth = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0].numpy()
    assert judge(logits, truth, num_classes=4).ece < 0.01
    assert judge(logits * 4, truth, num_classes=4).ece > 0.15


def test_the_calibration_error_of_predictions_is_the_papers_sum() -> None:
    logits, truth = drawn(300, 10, scale=2.0), some_classes(300, 10)
    sure, guess = (found.numpy() for found in logits.double().softmax(1).max(1))
    total = 0.0
    for low in range(15):
        inside = (sure > low / 15) & (sure <= (low + 1) / 15)
        if inside.any():
            total += inside.mean() * abs((guess == truth)[inside].mean() - sure[inside].mean())
    assert judge(logits, truth, num_classes=10).ece == pytest.approx(total, rel=1e-9)


# ---- multi-label ---------------------------------------------------------------------------------


def test_multi_label_figures_are_scikit_learns() -> None:
    logits, truth = drawn(400, 6), some_labels(400, 6)
    scores = judge(logits, truth, num_classes=6, task="multi-label")
    p = logits.double().sigmoid().numpy()
    guess = p > 0.5
    assert scores.score == scores.map == pytest.approx(metrics.average_precision_score(truth, p), rel=1e-9)
    assert scores.f1_micro == pytest.approx(metrics.f1_score(truth, guess, average="micro"), rel=1e-12)
    assert scores.f1_macro == pytest.approx(metrics.f1_score(truth, guess, average="macro"), rel=1e-12)
    assert scores.exact_match == pytest.approx(metrics.accuracy_score(truth, guess), rel=1e-12)
    assert scores.loss == pytest.approx(metrics.log_loss(truth.ravel(), p.ravel()), rel=1e-6)
    assert scores.top1 is None
    assert scores.confusion is None


def test_average_precision_worked_out_by_hand() -> None:
    """Ranked: right, wrong, right. P at the two right ones: 1 and 2/3, each with half of the recall."""
    truth = torch.tensor([[1], [0], [1], [0]], dtype=torch.bool)
    assert average_precisions(torch.tensor([[4.0], [3.0], [2.0], [1.0]]), truth) == pytest.approx([5 / 6])
    assert average_precisions(torch.zeros(4, 1), truth) == pytest.approx([0.5])  # ties: one threshold


def test_a_label_that_never_occurs_is_left_out() -> None:
    logits, truth = drawn(50, 3), some_labels(50, 3)
    truth[:, 1] = 0
    logits[:, 1] = -5  # nor predicted
    scores = judge(logits, truth, num_classes=3, task="multi-label")
    others = judge(logits[:, [0, 2]], truth[:, [0, 2]], num_classes=2, task="multi-label")
    assert scores.average_precision is not None
    assert scores.average_precision[1] is None
    assert (scores.map, scores.f1_macro) == pytest.approx((others.map, others.f1_macro))


def test_without_any_label_the_score_is_zero() -> None:
    scores = judge(-torch.ones(4, 2), np.zeros((4, 2), np.uint8), num_classes=2, task="multi-label")
    assert (scores.score, scores.f1_micro, scores.f1_macro, scores.exact_match) == (0, 0, 0, 1)


# ---- against a teacher ---------------------------------------------------------------------------


def test_a_student_like_its_teacher_agrees_and_does_not_diverge() -> None:
    logits = drawn(64, 8, scale=60)
    for task, truth in (("single-label", some_classes(64, 8)), ("multi-label", some_labels(64, 8))):
        scores = judge(logits, truth, num_classes=8, task=task, teacher_logits=logits.clone())
        assert (scores.agreement, scores.kl) == (1.0, 0.0)


def test_agreement_and_divergence_worked_out_by_hand() -> None:
    student = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    teacher = torch.tensor([[0.8, 0.2], [0.1, 0.9]]).log()
    scores = judge(student, np.array([0, 0]), num_classes=2, teacher_logits=teacher)
    first = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    second = 0.1 * math.log(0.1 / 0.9) + 0.9 * math.log(0.9 / 0.1)
    assert scores.agreement == 0.5
    assert scores.kl == pytest.approx((first + second) / 2, rel=1e-6)


def test_multi_label_divergence_is_summed_over_labels() -> None:
    s, t = torch.tensor([0.5, 0.9], dtype=torch.float64), torch.tensor([0.8, 0.1], dtype=torch.float64)
    truth = np.array([[1, 0]], np.uint8)
    scores = judge(s.logit()[None], truth, num_classes=2, task="multi-label", teacher_logits=t.logit()[None])
    expected = sum(
        p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        for p, q in zip(t.tolist(), s.tolist(), strict=True)
    )
    assert scores.kl == pytest.approx(expected, rel=1e-9)
    assert scores.agreement == 0.0  # 0.5 is not above one half, 0.8 is; 0.9 and 0.1 differ as well


def test_masked_classes_of_the_teacher_do_not_spoil_the_divergence() -> None:
    teacher = drawn(8, 4)
    teacher[:, 2] = -torch.inf
    scores = judge(drawn(8, 4, seed=2), some_classes(8, 4), num_classes=4, teacher_logits=teacher)
    assert scores.kl is not None
    assert math.isfinite(scores.kl)


def test_a_teacher_of_other_classes_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(4, 5\)"):
        judge(drawn(4, 5), some_classes(4, 5), num_classes=5, teacher_logits=drawn(4, 6))


# ---- what travels --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_outputs_that_are_no_numbers_show_in_the_loss_and_raise_nothing(task: str) -> None:
    truth = some_classes(9, 4) if task == "single-label" else some_labels(9, 4)
    assert math.isnan(judge(torch.full((9, 4), torch.nan), truth, num_classes=4, task=task).loss)


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_scores_are_plain_json(task: str) -> None:
    truth = some_classes(9, 7) if task == "single-label" else some_labels(9, 7)
    found = asdict(judge(drawn(9, 7), truth, num_classes=7, task=task, teacher_logits=drawn(9, 7, seed=4)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_what_is_drawn_over_the_epochs_and_said_in_the_console() -> None:
    one = judge(drawn(50, 10), some_classes(50, 10), num_classes=10)
    assert set(one.points("val")) == {"val/top1", "val/top5", "val/loss"}
    assert one.words() == f"top-1 {one.top1:.2%}, loss {one.loss:.4f}"
    many = judge(drawn(50, 10), some_labels(50, 10), num_classes=10, task="multi-label")
    assert set(many.points("val")) == {"val/map", "val/f1", "val/loss"}
    assert many.points("val")["val/f1"] == many.f1_micro  # as the trainer has it of a batch
    assert many.words().startswith(f"mAP {many.map:.2%}")


# ---- a network on a split ------------------------------------------------------------------------


class FirstPixels(nn.Module):
    """Its logits are the first pixels of the image; in training, half of them are dropped."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x.flatten(1)[:, :4], 0.5, self.training)


@pytest.fixture
def augment() -> Augment:
    facts = {"channels": 1, "height": 2, "width": 2, "mean": [0.0], "std": [1 / 255], "augment": {}}
    rest = {"kind": "", "classes": list("abcd"), "sizes": {}, "class_counts": {}, "augmentation": []}
    return Augment(Meta.model_validate(facts | rest | {"fingerprint": "", "samples": {}}))


def a_split(labels: np.ndarray) -> Split:
    return Split(np.random.default_rng(0).integers(0, 9, (len(labels), 1, 2, 2)).astype(np.uint8), labels)


def test_the_logits_of_a_split_are_ordinary_numbers_in_its_order(augment: Augment) -> None:
    split = a_split(some_classes(10, 4))
    logits = predict(FirstPixels().train(), split, augment, device=CPU, batch_size=4)
    assert torch.equal(logits, torch.from_numpy(split.images.reshape(10, 4)).float())
    assert not logits.is_inference()


@pytest.mark.parametrize("labels", [some_classes(10, 4), some_labels(10, 4)], ids=["single", "multi"])
def test_evaluating_is_predicting_and_judging(augment: Augment, labels: np.ndarray) -> None:
    split, task = a_split(labels), "single-label" if labels.ndim == 1 else "multi-label"
    logits = predict(FirstPixels(), split, augment, device=CPU)
    teacher = drawn(10, 4)
    judged = judge(logits, labels, num_classes=4, task=task, teacher_logits=teacher)
    found = evaluate(
        FirstPixels(),
        split,
        augment,
        num_classes=4,
        device=CPU,
        task=task,
        batch_size=3,
        teacher_logits=teacher,
    )
    assert isinstance(found, Scores)
    assert found == judged


def test_an_evaluation_can_be_stopped(augment: Augment) -> None:
    with pytest.raises(StopRequested):
        predict(FirstPixels(), a_split(some_classes(10, 4)), augment, device=CPU, should_stop=lambda: True)
