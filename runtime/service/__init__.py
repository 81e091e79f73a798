"""HTTP: an OpenAI-compatible API around the engine, with plan, health and metrics."""
