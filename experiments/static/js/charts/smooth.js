// An exponential moving average that does not start too low. Gaps stay gaps. Where points are further apart than
// usual, as where the server thinned them, the older ones count less. The state goes on with live points.

const ACROSS = 1000; // a curve of more points is smoothed as if it had so many

export class Average {
  constructor(weight, steps) {
    this.weight = weight;
    this.pitch = Math.max(1e-9, (steps[steps.length - 1] - steps[0]) / Math.min(ACROSS, steps.length - 1));
    this.sum = this.mass = 0;
    this.last = null;
  }

  next(value, step) {
    if (value === null) return null;
    const kept = this.weight ** (this.last === null ? 1 : (step - this.last) / this.pitch);
    this.last = step;
    this.sum = kept * this.sum + (1 - kept) * value;
    this.mass = kept * this.mass + (1 - kept);
    return this.sum / this.mass;
  }
}
