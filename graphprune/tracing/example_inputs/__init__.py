"""Example inputs for a model, found from its configuration or its first layers."""
