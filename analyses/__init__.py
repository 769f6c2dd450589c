"""One script a result: a frozen Config whose defaults are the paper's or the demonstration's, and run(config) -> Path."""
