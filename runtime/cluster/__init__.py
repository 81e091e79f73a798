"""The same stages on several machines: placed and started by Ray, joined by connections of TCP."""
