"""Data: models, devices and the tiny model that ships with glm-plan."""
