"""Predictions over cases: sliding windows, views, draws of dropout, ensembles."""
