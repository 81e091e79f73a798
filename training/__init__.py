"""How the tiny model that ships with glm-plan is made; needs PyTorch, is not installed."""
