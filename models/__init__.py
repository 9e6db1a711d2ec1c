"""Ready models and estimators, written as programs of the language."""
