"""The 2023 MNN export of ChatGLM-6B (`glm_block_0.mnn`, ..., `lm.mnn`), opened as it is."""
