"""Training: one readable loop, objectives, topographic penalties, and recipes with frozen configurations."""

from importlib import import_module

_PLACES = {
    "TrainingLog": "log",
    "TrainingConfig": "config",
    "Run": "loop",
    "train": "loop",
    "Penalty": "penalties",
    "Penalties": "penalties",
    "CausalLM": "objectives",
    "MaskedLM": "objectives",
    "SentenceClassification": "objectives",
    "ImageClassification": "objectives",
    "Recipe": "recipes",
    "find_recipe": "recipes",
    "list_recipes": "recipes",
    "run_recipe": "recipe_run",
    "TinyConfig": "tiny",
    "train_tiny_pair": "tiny",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(f"topobrain.training.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'topobrain.training' has no attribute {name!r}; public names: {', '.join(__all__)}")
