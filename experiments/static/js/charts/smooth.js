// An exponential moving average that does not start too low. Gaps stay gaps. The state goes on with live points.

export class Average {
  constructor(weight) {
    this.weight = weight;
    this.sum = 0;
    this.mass = 0;
  }

  next(value) {
    if (value === null) return null;
    this.sum = this.weight * this.sum + (1 - this.weight) * value;
    this.mass = this.weight * this.mass + (1 - this.weight);
    return this.sum / this.mass;
  }
}
