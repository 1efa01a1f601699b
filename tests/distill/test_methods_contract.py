"""What holds for every method: finite under stress, gradients where they belong, any two networks."""

import pytest
import torch
from torch import nn

from worker.distill import methods, models, objective
from worker.distill.layers import Tap
from worker.distill.spec import Objective, SpecError, Term

pytestmark = pytest.mark.slow

KEYS = sorted(methods.discover().methods)
CLASSES, SAMPLES, BATCH = 4, 24, 6


class Transformer(nn.Module):
    """Patches, a class token, two blocks, a head on the class token."""

    def __init__(self, width=12, image=(16, 16), patch=4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True) for _ in range(2))
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        return self.head(x[:, 0])


def cnn(key="resnet8"):
    return models.build(key, num_classes=CLASSES, in_channels=3, image_size=16)


PAIRS = {
    "same family, other channels": lambda: (cnn("resnet8"), cnn("resnet8x4"), (16, 16)),
    "other family, other sizes": lambda: (cnn("mobilenetv2-half"), cnn("vgg8"), (32, 32)),
    "oblong images": lambda: (cnn("resnet8"), cnn("wrn-16-2"), (16, 24)),
    "CNN from transformer": lambda: (cnn("resnet8"), Transformer(), (16, 16)),
    "transformer from CNN": lambda: (Transformer(), cnn("resnet8"), (16, 16)),
    "one and the same": lambda: (cnn("resnet8"), cnn("resnet8"), (16, 16)),
}
# Why a method may refuse a pair: the words its message has.
REFUSED = {("simkd", "CNN from transformer"): "mean of a feature map"}


class Scene:
    """A method set up for two networks, and the steps it may see."""

    def __init__(self, key, pair="same family, other channels", dtype=torch.float32):
        torch.manual_seed(0)
        student, teacher, size = PAIRS[pair]()
        self.teacher = teacher.eval().requires_grad_(False)
        self.image = (3, *size)
        labels = torch.arange(SAMPLES) % CLASSES
        about = methods.Pair(student, self.teacher, self.image, CLASSES, labels=labels, seed=1)
        wanted = Objective(terms=[Term(method=key)])
        self.loss = objective.build(wanted, lambda: about)
        self.method = self.loss.terms[0].method
        self.student = self.method.graft(student)
        self.prelude = bool(self.method.prelude_only)
        self.wanted = self.loss.wanted(self.prelude)
        self.dtype, self.labels = dtype, labels

    def step(self, batch=BATCH, features=None, logits=None):
        """One step on random images; `features`, `logits`: what is made of the networks' outputs."""
        generator = torch.Generator().manual_seed(batch)
        x = torch.randn(batch, *self.image, generator=generator)
        index = torch.arange(batch)
        student, teacher = self.look(self.student.train() if batch > 1 else self.student.eval(), x, "student")
        with torch.no_grad():
            theirs = self.look(self.teacher, x, "teacher")
        twin = methods.Logits(*(self.changed(z.flip(0), logits) for z in (student, theirs[0])))
        return methods.Step(
            labels=self.labels[:batch],
            index=index,
            student_logits=self.changed(student, logits),
            teacher_logits=self.changed(theirs[0], logits),
            student_features=self.features(teacher, self.wanted.student, features),
            teacher_features=self.features(theirs[1], self.wanted.teacher, features),
            student_vectors=self.features(
                objective.pooled(teacher, self.wanted.student_vectors), self.wanted.student_vectors, features
            ),
            teacher_vectors=self.features(
                objective.pooled(theirs[1], self.wanted.teacher_vectors),
                self.wanted.teacher_vectors,
                features,
            ),
            strong=twin if "views" in self.method.needs else None,
            epochs=10,
            epoch=5.0 if not self.prelude else 0.0,
        )

    def look(self, model, x, side):
        vectors = getattr(self.wanted, f"{side}_vectors")
        with Tap(model, sorted({*getattr(self.wanted, side), *vectors})) as tap:
            return model(x), tap.outputs

    def changed(self, x, change):
        return (change(x) if change else x).to(self.dtype)

    def features(self, outputs, paths, change):
        return {path: self.changed(outputs[path], change) for path in paths}

    def value(self, step):
        return self.method.prelude(step) if self.prelude else self.method(step)


def gradients(module):
    return [p.grad for p in module.parameters() if p.grad is not None]


def assert_finite(scene, step):
    value = scene.value(step)
    assert value.ndim == 0
    assert torch.isfinite(value), value
    value.backward()
    for grad in gradients(scene.student) + gradients(scene.method):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("key", KEYS)
def test_the_gradient_reaches_the_student_and_nothing_of_the_teacher(key):
    scene = Scene(key)
    scene.value(scene.step()).backward()
    assert any(grad.abs().sum() > 0 for grad in gradients(scene.student))
    assert gradients(scene.teacher) == []


def confident(z):
    """Logits of standard deviation 60."""
    return 60 * (z - z.mean()) / z.std().clamp_min(1e-3) if z.numel() > 1 else z


STRESS = {
    "confident logits": {"logits": confident},
    "masked logits": {"logits": lambda z: torch.cat([z[:, :-1], torch.full_like(z[:, -1:], -torch.inf)], 1)},
    "zero features": {"features": lambda f: f * 0},
    "zero logits": {"logits": lambda z: z * 0},
    "huge features": {"features": lambda f: f * 1e4},
    "a batch of one": {"batch": 1},
    "a batch of two": {"batch": 2},
}


@pytest.mark.parametrize("stress", STRESS)
@pytest.mark.parametrize("key", KEYS)
def test_value_and_gradient_are_finite_under_stress(key, stress):
    scene = Scene(key)
    assert_finite(scene, scene.step(**STRESS[stress]))


@pytest.mark.parametrize("key", KEYS)
def test_half_precision_is_reckoned_in_fp32(key):
    scene = Scene(key, dtype=torch.bfloat16)
    step = scene.step()
    wide = {
        name: {path: x.float() for path, x in getattr(step, name).items()}
        for name in ("student_features", "teacher_features", "student_vectors", "teacher_vectors")
    }
    step = methods.Step(**{**step.__dict__, **wide})  # the trainer hands features over in fp32
    assert scene.value(step).dtype == torch.float32
    assert_finite(scene, step)


@pytest.mark.parametrize("key", KEYS)
def test_a_student_that_equals_its_teacher_is_finite(key):
    scene = Scene(key, "one and the same")
    scene.student.load_state_dict(scene.teacher.state_dict(), strict=False)
    assert_finite(scene, scene.step())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("key", KEYS)
def test_any_two_networks_are_bridged_or_refused_with_the_reason(key, pair):
    if (key, pair) in REFUSED:
        with pytest.raises(SpecError, match=REFUSED[key, pair]) as refused:
            Scene(key, pair)
        assert refused.value.fix
        return
    scene = Scene(key, pair)
    assert_finite(scene, scene.step())


@pytest.mark.parametrize("key", KEYS)
def test_what_a_method_keeps_comes_back_with_its_state(key):
    first, second = Scene(key), Scene(key)
    for _ in range(2):
        first.value(first.step()).backward()
    second.loss.load_state_dict(first.loss.state_dict())
    second.student.load_state_dict(first.student.state_dict())
    step = first.step()
    twin = second.step()
    assert torch.equal(first.value(step), second.value(twin))


@pytest.mark.parametrize("key", KEYS)
def test_own_parameters_are_all_reached(key):
    scene = Scene(key)
    scene.value(scene.step()).backward()
    if scene.method.prelude_epochs and not scene.prelude:
        return  # the first stage has prepared some of them
    unreached = [n for n, p in scene.method.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == []
