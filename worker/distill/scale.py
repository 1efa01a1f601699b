"""Half precision's gradients: how often they overflow, and when that is hopeless.

fp16 multiplies the loss by a scale, leaves a step out whose gradients overflow, and halves the scale: usual
for a few steps at the start, and once in a while. Gradients that are no numbers overflow at any scale: step
after step is left out, nothing is learnt, and every loss looks sound.
"""

from __future__ import annotations

import math

import torch

from worker.distill.errors import Diverged
from worker.distill.events import Log, Reporter

SMALLEST = 2.0**-149  # of what single precision holds; below it is 0
HOPELESS = 2.0**-14  # from 2^16, thirty halvings: no gradient is that large


class ScaleWatch:
    """Looks now and then, where the device has just been waited for: a look at each step would slow it."""

    def __init__(self, scaler: torch.amp.GradScaler, report: Reporter) -> None:
        self.scaler, self.report = scaler, report
        self.scale = scaler.get_scale()
        self.skipped = 0  # steps left out in a row so far

    def look(self, step: int, learning_rate: float) -> None:
        """After a step. Raises Diverged when no step can be taken any more."""
        if not self.scaler.is_enabled():
            return
        before, self.scale = self.scale, self.scaler.get_scale()
        if self.scale < before:
            self.skipped += round(math.log2(before / max(self.scale, SMALLEST)))
        elif self.skipped:
            self._tell()
        if self.scale < HOPELESS:
            reason = f"gradients overflow in fp16 at any scale ({self.skipped} steps in a row were left out)"
            fix = "Set training.precision to bf16 or fp32, or lower training.learning_rate."
            raise Diverged("gradient", math.inf, step, learning_rate, reason=reason, fix=fix)

    def _tell(self) -> None:
        """It is over."""
        steps = "1 step was" if self.skipped == 1 else f"{self.skipped} steps were"
        text = f"fp16: {steps} left out, whose gradients overflowed; the scale is {self.scale:g} now."
        self.report(Log(text=text))
        self.skipped = 0
