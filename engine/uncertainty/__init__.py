"""How far predictions can be trusted: Monte-Carlo dropout, ensembles, and calibration."""
