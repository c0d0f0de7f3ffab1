"""Real servers, real containers, real files."""
