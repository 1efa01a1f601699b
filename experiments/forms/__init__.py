"""Forms, by noun. What a worker publishes as JSON Schema becomes fields through `schema`."""
