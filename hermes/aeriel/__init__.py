"""Serve models with Triton and stream data through them: plain Python, no workflow engine."""
