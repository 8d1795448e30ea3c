"""The nouns: spaces, objectives, errors, text. They know no Ray, no MLflow and no torch."""
