"""Training stages: what a round trains on, on what loss."""
